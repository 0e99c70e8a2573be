// A frame in the photo, drawn with a pointer or moved by four sliders.
const part = document.getElementById("crop");
const frame = document.getElementById("frame");
const shown = document.getElementById("box");
const [left, right, top, bottom] = part.querySelectorAll("#edges input");
const MIN_SIDE = 2; // per cent of the photo

// Shows the photo with a frame; box is [left, top, right, bottom] in [0, 1].
export function open(url, box) {
  frame.querySelector("img").src = url;
  set(box.map((edge) => 100 * edge));
  part.hidden = false;
  left.focus();
}

export const close = () => { part.hidden = true; };

export const box = () => [left, top, right, bottom].map((edge) => Number(edge.value) / 100);

function set([l, t, r, b]) {
  Object.assign(left, { value: l }); Object.assign(top, { value: t });
  Object.assign(right, { value: r }); Object.assign(bottom, { value: b });
  draw();
}

function draw() {
  const [l, t, r, b] = box().map((edge) => 100 * edge);
  Object.assign(shown.style, { left: `${l}%`, top: `${t}%`, width: `${r - l}%`, height: `${b - t}%` });
}

for (const [low, high] of [[left, right], [top, bottom]]) {
  low.addEventListener("input", () => { low.value = Math.min(low.value, high.value - MIN_SIDE); draw(); });
  high.addEventListener("input", () => { high.value = Math.max(high.value, Number(low.value) + MIN_SIDE); draw(); });
}

let start = null; // in per cent of the photo
const position = (event) => {
  const area = frame.getBoundingClientRect();
  return [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height]
    .map((value) => 100 * Math.min(1, Math.max(0, value)));
};
frame.addEventListener("pointerdown", (event) => {
  event.preventDefault();
  frame.setPointerCapture(event.pointerId);
  start = position(event);
});
frame.addEventListener("pointermove", (event) => {
  if (!start) return;
  const [x, y] = position(event);
  const [l, t, r, b] = [Math.min(x, start[0]), Math.min(y, start[1]), Math.max(x, start[0]), Math.max(y, start[1])];
  if (r - l >= MIN_SIDE && b - t >= MIN_SIDE) set([l, t, r, b]);
});
for (const end of ["pointerup", "pointercancel"]) frame.addEventListener(end, () => { start = null; });
