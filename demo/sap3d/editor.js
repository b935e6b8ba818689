// The editor of an outline. Value: what outlines.py's `editor` says of a photo, or null. Triggers "edit" with
// {act: "edit" | "undo" | "reset", index, edit} and redraws when the value comes back.
const dialog = element.querySelector('dialog'), canvas = element.querySelector('canvas');
const frame = element.querySelector('.frame'), said = element.querySelector('.said');
const context = canvas.getContext('2d');
const photo = new Image(), mask = new Image();
let data = null, zoom = 1, stroke = null, cursor = [0.5, 0.5], keyboard = false, busy = false, shade = null;
const picked = (name) => element.querySelector(`input[name=${name}]:checked`).value;
const counted = (n) => (n ? `${n} ${n === 1 ? 'change' : 'changes'} so far.` : 'No changes so far.');
const radius = () => Number(element.querySelector('input[name=radius]').value) / 100;

function fit() {
  const scale = Math.min(frame.clientWidth / photo.width, frame.clientHeight / photo.height) * zoom;
  canvas.width = Math.max(1, Math.round(photo.width * scale));
  canvas.height = Math.max(1, Math.round(photo.height * scale));
  draw();
}

// What is outside is faded to white; the outline is red.
function makeShade() {
  const small = document.createElement('canvas');
  [small.width, small.height] = [photo.width, photo.height];
  const c = small.getContext('2d', { willReadFrequently: true });
  c.drawImage(mask, 0, 0, small.width, small.height);
  const pixels = c.getImageData(0, 0, small.width, small.height), d = pixels.data, w = small.width;
  const inside = (i) => d[i] > 127;
  const flags = new Uint8Array(w * small.height);
  for (let i = 0; i < flags.length; i++) flags[i] = inside(4 * i);
  for (let i = 0; i < flags.length; i++) {
    const edge = (i % w < w - 1 && flags[i] !== flags[i + 1]) || (i + w < flags.length && flags[i] !== flags[i + w]);
    d.set(edge ? [220, 0, 0, 255] : [255, 255, 255, flags[i] ? 0 : 190], 4 * i);
  }
  c.putImageData(pixels, 0, 0);
  shade = small;
}

function draw() {
  if (!data) return;
  const [w, h] = [canvas.width, canvas.height], longer = Math.max(w, h);
  context.drawImage(photo, 0, 0, w, h);
  if (shade) context.drawImage(shade, 0, 0, w, h);
  for (const edit of [...data.edits, ...(stroke ? [stroke] : [])]) {
    context.strokeStyle = context.fillStyle = edit.kind === 'keep' ? '#007a33' : '#c00000';
    context.lineWidth = 2;
    const points = edit.points.map(([x, y]) => [x * w, y * h]);
    if (edit.tool === 'point') {
      const [x, y] = points[0];
      context.beginPath(); context.arc(x, y, 7, 0, 7); context.fill();
      context.fillStyle = '#fff'; context.font = 'bold 12px sans-serif'; context.textAlign = 'center';
      context.fillText(edit.kind === 'keep' ? '+' : '−', x, y + 4);
    } else if (edit.tool === 'box' && points.length === 2) {
      const [[a, b], [c, d]] = points;
      context.strokeRect(Math.min(a, c), Math.min(b, d), Math.abs(c - a), Math.abs(d - b));
    } else if (edit === stroke) {
      context.globalAlpha = 0.5; context.lineCap = context.lineJoin = 'round'; context.lineWidth = 2 * edit.radius * longer;
      context.beginPath(); context.moveTo(...points[0]);
      for (const point of points) context.lineTo(...point);
      context.stroke(); context.globalAlpha = 1;
    }
  }
  if (keyboard) {
    const [x, y] = [cursor[0] * w, cursor[1] * h];
    context.strokeStyle = '#000'; context.lineWidth = 3;
    context.beginPath(); context.moveTo(x - 12, y); context.lineTo(x + 12, y);
    context.moveTo(x, y - 12); context.lineTo(x, y + 12); context.stroke();
    context.strokeStyle = '#fff'; context.lineWidth = 1; context.stroke();
  }
}

function send(act, edit) {
  if (busy || !data) return;
  busy = true;
  dialog.setAttribute('aria-busy', 'true');
  said.textContent = 'One moment …';
  trigger('edit', { act, index: data.index, edit });
}

const place = (event) => {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
};
const begin = (points) => ({ kind: picked('kind'), tool: picked('tool'), points, radius: radius() });

canvas.addEventListener('pointerdown', (event) => {
  if (busy || event.button > 0) return;
  keyboard = false;
  canvas.setPointerCapture(event.pointerId);
  stroke = begin([place(event)]);
  draw();
});
canvas.addEventListener('pointermove', (event) => {
  if (!stroke) return;
  if (stroke.tool === 'brush') stroke.points.push(place(event));
  if (stroke.tool === 'box') stroke.points[1] = place(event);
  draw();
});
canvas.addEventListener('pointerup', () => {
  const done = stroke;
  stroke = null;
  if (done && (done.tool !== 'box' || done.points.length === 2)) send('edit', done);
});
canvas.addEventListener('pointercancel', () => { stroke = null; draw(); });
canvas.addEventListener('keydown', (event) => {
  const step = event.shiftKey ? 0.05 : 0.01;
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  if (moves[event.key]) {
    cursor = cursor.map((value, i) => Math.min(1, Math.max(0, value + moves[event.key][i])));
    if (stroke?.tool === 'box') stroke.points[1] = [...cursor];
  } else if (event.key === 'Enter' || event.key === ' ') {
    if (busy) return;
    if (picked('tool') === 'box' && !stroke) stroke = begin([[...cursor]]);
    else { const done = stroke || begin([[...cursor]]); stroke = null; send('edit', done); }
  } else return;
  keyboard = true;
  event.preventDefault();
  draw();
});
canvas.addEventListener('focus', () => { keyboard = canvas.matches(':focus-visible'); draw(); });
canvas.addEventListener('blur', () => { keyboard = false; draw(); });

element.addEventListener('click', (event) => {
  const name = event.target.closest('button')?.name;
  if (name === 'undo') send('undo');
  if (name === 'reset') send('reset');
  if (name === 'close') dialog.close();
  if (name === 'in' || name === 'out') { zoom = Math.min(6, Math.max(1, zoom * (name === 'in' ? 1.5 : 1 / 1.5))); fit(); }
});
addEventListener('resize', () => { if (dialog.open) fit(); });

const loaded = (image, source) => new Promise((resolve) => { image.onload = resolve; image.onerror = resolve; image.src = source; });
watch('value', async () => {
  const another = !data || !props.value || data.index !== props.value.index || !dialog.open;
  data = props.value;
  busy = false;
  dialog.removeAttribute('aria-busy');
  if (!data) { dialog.close(); return; }
  element.querySelector('.name').textContent = `Outline of ${data.name}`;
  said.textContent = data.message || data.said || counted(data.edits.length);
  for (const name of ['undo', 'reset']) element.querySelector(`button[name=${name}]`).disabled = !data.edits.length;
  if (!dialog.open) dialog.showModal();
  if (another) { zoom = 1; shade = null; await loaded(photo, data.photo); }
  await loaded(mask, data.mask);
  makeShade();
  fit();
  dialog.dataset.edits = data.edits.length;
});
