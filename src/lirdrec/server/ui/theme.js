// Runs before anything is drawn: the colors that were chosen, "light" or "dark"; else those of the system.
(function () {
  try {
    const chosen = localStorage.getItem("lirdrec-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // a browser that keeps nothing: the system's colors
  }
})();
