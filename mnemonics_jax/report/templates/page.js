/* Shows the confusion matrix of a phase; confusion.py makes the data. */
'use strict';
(() => {
  const source = document.getElementById('matrices');
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const at = (name) => document.getElementById(name);
  const canvas = at('matrix-canvas');
  const [run, head, slider] = ['run', 'head', 'phase'].map(
    (name) => at(`matrix-${name}`));
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const MOST_NAMED = 25, MOST_NUMBERED = 12, MOST_PAIRS = 10;
  const TITLE = 20;  // Pixels of an axis title.
  const RAMPS = {
    light: [[247, 251, 255], [107, 174, 214], [8, 48, 107]],
    dark: [[30, 36, 43], [28, 100, 160], [190, 225, 255]],
  };
  let cursor = null, box = null;

  const shown = () => {
    const chosen = data.runs[run.value || 0];
    const heads = chosen.heads[head.value] || chosen.heads[0];
    const phase = heads.phases[Math.min(slider.value, heads.phases.length - 1)];
    return { classes: chosen.classes, heads, phase, run: chosen };
  };

  const color = (share) => {
    const ramp = RAMPS[dark.matches ? 'dark' : 'light'];
    const place = Math.min(1, Math.sqrt(share)) * 2;
    const i = Math.min(1, Math.floor(place));
    const mixed = ramp[i].map((low, c) =>
      Math.round(low + (place - i) * (ramp[i + 1][c] - low)));
    return `rgb(${mixed})`;
  };

  const sums = (counts) =>
    counts.map((row) => Math.max(1, row.reduce((a, b) => a + b, 0)));

  const short = (name) => name.length > 12 ? `${name.slice(0, 11)}\u2026` : name;

  const pairs = (phase, classes) => {
    if (phase.pairs) return phase.pairs;
    const total = sums(phase.counts), found = [];
    phase.counts.forEach((row, t) => row.forEach((n, p) => {
      if (n && t !== p) found.push([n / total[t], t, p, n]);
    }));
    found.sort((a, b) => b[0] - a[0] || a[1] - b[1] || a[2] - b[2]);
    return found.slice(0, MOST_PAIRS).map(([share, t, p, n]) =>
      [classes[t], classes[p], String(n), (100 * share).toFixed(1)]);
  };

  const showPairs = (phase, classes) => {
    const body = document.querySelector('#pairs tbody');
    body.replaceChildren(...pairs(phase, classes).map((cells) => {
      const row = document.createElement('tr');
      row.append(...cells.map((text, i) => {
        const cell = document.createElement(i ? 'td' : 'th');
        if (!i) cell.scope = 'row';
        cell.textContent = text;
        return cell;
      }));
      return row;
    }));
  };

  const write = (pen, text, x, y, turned) => {
    pen.save();
    pen.translate(x, y);
    if (turned) pen.rotate(-Math.PI / 2);
    pen.fillText(text, 0, 0);
    pen.restore();
  };

  const drawNames = (pen, classes, seen, size) => {
    pen.font = `${Math.max(9, Math.min(13, size - 2))}px system-ui, sans-serif`;
    pen.fillStyle = getComputedStyle(canvas).color;
    pen.textBaseline = 'middle';
    const turned = Math.max(...classes.map((c) => short(c).length)) > 2;
    for (let i = 0; i < seen; i += 1) {
      const middle = (i + 0.5) * size;
      pen.textAlign = 'right';
      write(pen, short(classes[i]), box.left - 6, box.top + middle);
      pen.textAlign = turned ? 'left' : 'center';
      write(pen, short(classes[i]), box.left + middle, box.top - (turned ? 6 : 9),
        turned);
    }
  };

  const drawTitles = (pen) => {
    pen.font = '13px system-ui, sans-serif';
    pen.fillStyle = getComputedStyle(canvas).color;
    pen.textBaseline = 'middle';
    pen.textAlign = 'center';
    write(pen, 'predicted class', box.left + box.side / 2, TITLE / 2);
    write(pen, 'true class', TITLE / 2, box.top + box.side / 2, true);
  };

  const drawNumbers = (pen, phase, size) => {
    const total = sums(phase.counts);
    phase.counts.forEach((row, t) => row.forEach((n, p) => {
      const share = n / total[t];
      pen.fillStyle = color(share);
      pen.fillRect(box.left + p * size, box.top + t * size, size + 0.5, size + 0.5);
      if (phase.seen > MOST_NUMBERED || Math.round(100 * share) === 0) return;
      const strong = Math.sqrt(share) > 0.6;
      pen.fillStyle = strong === dark.matches ? '#12161b' : '#f5f7f9';
      if (!strong) pen.fillStyle = dark.matches ? '#e4e7eb' : '#1d2025';
      pen.textAlign = 'center';
      write(pen, String(Math.round(100 * share)), box.left + (p + 0.5) * size,
        box.top + (t + 0.5) * size);
    }));
  };

  const drawLines = (pen, phase, size) => {
    pen.strokeStyle = dark.matches ? '#7d8792' : '#8a929b';
    pen.lineWidth = 1;
    pen.strokeRect(box.left + 0.5, box.top + 0.5, box.side - 1, box.side - 1);
    if (phase.old) {
      const place = phase.old * size;
      pen.beginPath();
      pen.moveTo(box.left, box.top + place);
      pen.lineTo(box.left + box.side, box.top + place);
      pen.moveTo(box.left + place, box.top);
      pen.lineTo(box.left + place, box.top + box.side);
      pen.stroke();
    }
    if (cursor && phase.counts) {
      pen.strokeStyle = '#d55e00';
      pen.lineWidth = 2.5;
      pen.strokeRect(box.left + cursor[1] * size, box.top + cursor[0] * size,
        size, size);
    }
    canvas.dataset.shown = phase.text;
  };

  const drawImage = (pen, phase, size) => {
    const image = new Image();
    image.onload = () => {
      if (shown().phase !== phase) return;
      pen.imageSmoothingEnabled = false;
      pen.drawImage(image, box.left, box.top, box.side, box.side);
      drawLines(pen, phase, size);
    };
    image.src = phase.image;
  };

  const draw = () => {
    const { classes, phase, heads, run: chosen } = shown();
    const named = phase.seen <= MOST_NAMED;
    const width = canvas.parentElement.clientWidth;
    const pen = canvas.getContext('2d');
    pen.font = '13px system-ui, sans-serif';
    const longest = named ? Math.max(...classes.map(
      (c) => pen.measureText(short(c)).width)) : 0;
    const turned = named && Math.max(...classes.map((c) => short(c).length)) > 2;
    const left = TITLE + (named ? Math.ceil(longest) + 10 : 4);
    const top = turned ? left : TITLE + (named ? 20 : 4);
    box = { left, top, side: Math.min(width - left - 4, 520) };
    const scale = window.devicePixelRatio || 1;
    canvas.width = Math.round((left + box.side + 4) * scale);
    canvas.height = Math.round((top + box.side + 4) * scale);
    canvas.style.width = `${left + box.side + 4}px`;
    pen.scale(scale, scale);
    const size = box.side / phase.seen;
    drawTitles(pen);
    if (named) drawNames(pen, classes, phase.seen, size);
    if (phase.counts) {
      drawNumbers(pen, phase, size);
      drawLines(pen, phase, size);
    } else {
      drawImage(pen, phase, size);
    }
    canvas.setAttribute('aria-label',
      `Confusion matrix of ${heads.name}, ${chosen.name}. ${phase.text}.`);
  };

  const readCell = () => {
    const { classes, phase } = shown();
    if (!cursor || !phase.counts) return;
    const [t, p] = cursor, n = phase.counts[t][p], all = sums(phase.counts)[t];
    at('matrix-cell').textContent = `true ${classes[t]}, predicted ${classes[p]}: `
      + `${n} of ${all} images (${(100 * n / all).toFixed(1)} %)`;
  };

  const show = () => {
    const { classes, phase, heads } = shown();
    slider.max = heads.phases.length - 1;
    slider.setAttribute('aria-valuetext', phase.text);
    at('matrix-state').textContent = `${phase.text} (${heads.name})`;
    if (cursor) cursor = cursor.map((i) => Math.min(i, phase.seen - 1));
    draw();
    showPairs(phase, classes);
    readCell();
  };

  const choose = (place) => {
    const { phase } = shown();
    cursor = place.map((i) => Math.max(0, Math.min(phase.seen - 1, i)));
    draw();
    readCell();
  };

  const point = (event) => {
    const frame = canvas.getBoundingClientRect(), { phase } = shown();
    const size = box.side / phase.seen;
    const t = Math.floor((event.clientY - frame.top - box.top) / size);
    const p = Math.floor((event.clientX - frame.left - box.left) / size);
    if (Math.min(t, p) >= 0 && Math.max(t, p) < phase.seen) choose([t, p]);
  };
  canvas.addEventListener('pointermove', point);
  canvas.addEventListener('pointerdown', point);
  const STEPS = {
    ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
  };
  canvas.addEventListener('keydown', (event) => {
    const step = STEPS[event.key];
    if (!step) return;
    event.preventDefault();
    choose(cursor ? [cursor[0] + step[0], cursor[1] + step[1]] : [0, 0]);
  });
  run.addEventListener('change', () => {
    head.replaceChildren(...shown().run.heads.map((item, i) => new Option(item.name, i)));
    show();
  });
  head.addEventListener('change', show);
  slider.addEventListener('input', show);
  dark.addEventListener('change', draw);
  window.addEventListener('resize', draw);
  at('matrix').hidden = false;
  show();
})();
