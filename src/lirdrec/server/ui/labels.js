// Titles next to the points of the map, if there is space.

/** The titles of some places; those that would cover a point or another title are left out. */
export function paintLabels(plane, ink, places, radius) {
  ink.font = `12.5px ${getComputedStyle(plane.canvas).fontFamily}`;
  ink.textBaseline = "middle";
  ink.lineJoin = "round";
  ink.lineWidth = 3.5;
  ink.strokeStyle = plane.colors.ground;
  const spots = places.map((at) => plane.screen(at));
  const taken = spots.map(({ x, y }) => [x - radius, y - radius, x + radius, y + radius]);
  places.forEach((at, own) => {
    const text = cut(plane.points.titles[at] || String(plane.points.items[at]));
    const box = room(plane, spots[own], ink.measureText(text).width, radius + 4, taken, own);
    if (!box) return;
    taken.push(box);
    const middle = (box[1] + box[3]) / 2;
    ink.strokeText(text, box[0], middle);
    ink.fillStyle = at === plane.subject ? plane.colors.accent : plane.colors.ink;
    ink.fillText(text, box[0], middle);
  });
  ink.lineWidth = 1;
}

/** A free box for a label beside, below or above its point; null where there is none. */
function room(plane, { x, y }, wide, off, taken, own) {
  const high = 8;
  const boxes = [
    [x + off, y - high],
    [x - off - wide, y - high],
    [x - wide / 2, y + off - 2],
    [x - wide / 2, y - off + 2 - 2 * high],
  ].map(([left, top]) => [left, top, left + wide, top + 2 * high]);
  const inside = (box) => box[0] >= 3 && box[1] >= 0 && box[2] <= plane.width - 3 && box[3] <= plane.height;
  const free = (box) =>
    taken.every((one, at) => at === own || box[0] > one[2] || box[2] < one[0] || box[1] > one[3] || box[3] < one[1]);
  return boxes.find((box) => inside(box) && free(box)) ?? null;
}

const cut = (text) => (text.length > 32 ? `${text.slice(0, 31)}…` : text);
