// Pointer, wheel and keyboard input of the map.

/** Wheel and two fingers zoom, one moves, a click chooses; arrows, plus, minus and zero do the same. */
export function listen(plane, signal) {
  const { canvas } = plane;
  const pointers = new Map();
  let dragged = 0;
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const { x, y } = spot(canvas, event);
      plane.zoom(Math.exp(-event.deltaY * 0.0016), x, y);
    },
    { signal, passive: false },
  );
  canvas.addEventListener(
    "pointerdown",
    (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, spot(canvas, event));
      dragged = 0;
    },
    { signal },
  );
  canvas.addEventListener(
    "pointermove",
    (event) => {
      const now = spot(canvas, event);
      const before = pointers.get(event.pointerId);
      if (!before) {
        plane.hover(plane.nearest(now.x, now.y));
        return;
      }
      const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
      if (other) {
        const factor =
          Math.hypot(now.x - other.x, now.y - other.y) /
          Math.max(1, Math.hypot(before.x - other.x, before.y - other.y));
        plane.zoom(factor, (now.x + other.x) / 2, (now.y + other.y) / 2);
        dragged = 99;
      } else {
        dragged += Math.hypot(now.x - before.x, now.y - before.y);
        if (dragged > 4) plane.pan(now.x - before.x, now.y - before.y);
      }
      pointers.set(event.pointerId, now);
    },
    { signal },
  );
  const lifted = (event) => {
    if (!pointers.delete(event.pointerId) || event.type !== "pointerup" || dragged > 4) return;
    const { x, y } = spot(canvas, event);
    const at = plane.nearest(x, y);
    if (at >= 0) plane.options.chosen?.(at);
  };
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, lifted, { signal });
  canvas.addEventListener("pointerleave", () => plane.hover(-1), { signal });
  canvas.addEventListener(
    "keydown",
    (event) => {
      const step = 60;
      const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key in moves) plane.pan(...moves[event.key]);
      else if (event.key === "+" || event.key === "=") plane.zoom(1.4);
      else if (event.key === "-") plane.zoom(1 / 1.4);
      else if (event.key === "0") plane.fit();
      else return;
      event.preventDefault();
    },
    { signal },
  );
}

function spot(canvas, event) {
  const box = canvas.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
}
