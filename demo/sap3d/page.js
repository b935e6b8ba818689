// Parts of the page that need no server: its address, the jobs of this browser, novel views, the film, links to share, its title.
(() => {
  const KEY = 'sap3d-jobs', MOST = 20;

  window.sap3d = {
    // The identifiers of this browser's jobs, the newest first.
    jobs: () => { try { return JSON.parse(localStorage.getItem(KEY)) || []; } catch { return []; } },
    // The job that is shown becomes the page's address; those that are nobody else's are remembered.
    show: (id) => {
      if (new URLSearchParams(location.search).has('result')) return;
      history.replaceState(null, '', id ? `?job=${id}` : location.pathname);
      if (!/^[0-9a-f]{32}$/.test(id)) return;
      const jobs = [id, ...window.sap3d.jobs().filter((other) => other !== id)].slice(0, MOST);
      try { localStorage.setItem(KEY, JSON.stringify(jobs)); } catch { /* a private window */ }
    },
  };

  // A tile of the sheet of novel views: 12 columns of azimuths, 7 rows of elevations, 2 pixels between them.
  const PAD = 2, COLUMNS = 12, ROWS = 7;
  function draw(novel) {
    const [azimuth, elevation] = [...novel.querySelectorAll('input')].map((input) => Number(input.value));
    const sheet = novel.sheet, canvas = novel.querySelector('canvas'), context = canvas.getContext('2d');
    const pitch = (sheet.width - PAD) / COLUMNS, size = pitch - PAD;
    const column = Math.round(azimuth / 30) % COLUMNS, row = Math.round(elevation / 15) + (ROWS - 1) / 2;
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = 'high';
    context.drawImage(sheet, PAD + column * pitch, PAD + row * pitch, size, size, 0, 0, canvas.width, canvas.height);
    novel.dataset.shown = `${column} ${row}`;
    novel.querySelectorAll('label').forEach((label) => {
      label.querySelector('output').value = label.querySelector('input').value;
    });
  }
  function prepare(novel) {
    const sheet = new Image();
    sheet.onload = () => { novel.sheet = sheet; draw(novel); };
    sheet.src = novel.dataset.sheet;
    novel.dataset.ready = 'yes';
    let from = null;
    const canvas = novel.querySelector('canvas'), [around, up] = novel.querySelectorAll('input');
    canvas.onpointerdown = (event) => { from = [event.clientX, event.clientY, +around.value, +up.value]; };
    canvas.onpointerup = canvas.onpointerleave = () => { from = null; };
    canvas.onpointermove = (event) => {
      if (!from || !novel.sheet) return;
      around.value = (((from[2] - (event.clientX - from[0])) % 360) + 360) % 360;
      up.value = from[3] + (event.clientY - from[1]) / 2;
      draw(novel);
    };
  }
  document.addEventListener('input', (event) => {
    const novel = event.target.closest?.('.novel');
    if (novel?.sheet) draw(novel);
  });

  // A frame of the film has four squares: colours, normals, depth, and black where the object is, which tells the
  // others' background.
  function project(film) {
    const video = film.querySelector('video'), canvas = film.querySelector('canvas'), context = canvas.getContext('2d');
    const whole = document.createElement('canvas'), pixels = whole.getContext('2d', { willReadFrequently: true });
    function frame() {
      const size = video.videoHeight;
      if (canvas.height !== size) [whole.width, whole.height, canvas.width, canvas.height] = [4 * size, size, 3 * size, size];
      pixels.drawImage(video, 0, 0);
      const shown = pixels.getImageData(0, 0, 3 * size, size), d = shown.data;
      const white = pixels.getImageData(3 * size, 0, size, size).data;
      for (let y = 0, i = 0; y < size; y++) for (let x = 0; x < 3 * size; x++, i += 4) {
        const alpha = 255 - white[4 * (y * size + (x % size))];
        for (let c = i; c < i + 3; c++) d[c] = 255 - ((255 - d[c]) * 255) / Math.max(alpha, 1);
        d[i + 3] = alpha < 16 ? 0 : alpha; // what is left there of the film's compression
      }
      context.putImageData(shown, 0, 0);
      film.dataset.shown = video.currentTime.toFixed(2);
      if (film.isConnected) (video.requestVideoFrameCallback?.bind(video) || requestAnimationFrame)(frame);
    }
    film.dataset.ready = 'yes';
    video.muted = true;
    video.addEventListener('loadeddata', frame, { once: true });
    if (!matchMedia('(prefers-reduced-motion: reduce)').matches) video.play().catch(() => {});
    const button = film.parentElement.querySelector('[data-play]');
    const name = () => { button.textContent = video.paused ? 'Play' : 'Pause'; };
    video.onplay = video.onpause = name;
    button.onclick = () => (video.paused ? video.play() : video.pause());
    name();
  }

  document.addEventListener('click', async (event) => {
    const button = event.target.closest?.('[data-copy]');
    if (!button) return;
    const input = button.parentElement.querySelector('input');
    input.select();
    try { await navigator.clipboard.writeText(input.value); } catch { document.execCommand('copy'); }
    button.textContent = 'Copied';
  });

  const TITLES = { queued: 'Waiting', running: 'Running', done: 'Done', failed: 'Failed', cancelled: 'Cancelled' };
  let before = '';
  function look() {
    document.querySelectorAll('.novel:not([data-ready])').forEach(prepare);
    document.querySelectorAll('.film:not([data-ready])').forEach(project);
    // Gradio calls the field for photos otherwise than what is written in it.
    const field = document.querySelector('#photos button[aria-label]'), name = field?.innerText.trim().replace(/\s+/g, ' ');
    if (name && field.getAttribute('aria-label') !== name) field.setAttribute('aria-label', name);
    for (const input of document.querySelectorAll('.share input')) {
      const link = `${location.origin}${location.pathname}?result=${input.dataset.token}`;
      if (input.value !== link) input.value = link;
    }
    const state = document.querySelector('#told [data-state]')?.dataset.state || 'none';
    const share = document.querySelector('#told [role=progressbar]')?.getAttribute('aria-valuenow');
    // A run that has ended while the page was open is told by the tab's title.
    const told = state === 'running' && share ? `${share} %` : TITLES[state];
    const title = told ? `${told} · SAP3D` : 'SAP3D';
    if (title !== before) document.title = before = title;
  }
  new MutationObserver(look).observe(document.documentElement, { childList: true, subtree: true });
})();
