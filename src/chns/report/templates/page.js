"use strict";
(() => {
  const buttons = [...document.querySelectorAll("[data-shows]")];
  const show = (chosen) => {
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button === chosen));
      document.getElementById(button.dataset.shows).hidden = button !== chosen;
    }
  };
  for (const button of buttons) button.addEventListener("click", () => show(button));
  if (buttons.length) show(buttons[0]);
  const narrow = window.matchMedia("screen and (max-width: 40rem)").matches; // a list of cases is many screens there
  for (const one of document.querySelectorAll("details.long")) if (narrow) one.open = false;
})();
(() => {
  const source = document.getElementById("map-data");
  if (!source) return;
  const { num_colours: numColours, speakers, runs } = JSON.parse(source.textContent);
  const canvas = document.getElementById("map-canvas");
  const status = document.getElementById("map-status");
  const search = document.getElementById("map-search");
  const legend = document.getElementById("map-legend");
  const colouring = document.getElementById("map-colour");
  const context = canvas.getContext("2d");
  const REACH = 24; // pixels from the pointer to a speaker
  const MOST_LISTED = 8;
  const CLUSTER = "cluster";
  const clustered = runs.findIndex((one) => one.clusters);
  const chooser = document.getElementById("map-run");
  chooser.value = Math.max(clustered, 0);
  let run = runs[chooser.value];
  let chosen = -1; // the speaker under the pointer, or -1
  let found = []; // the speakers that the search box matches
  let places = []; // [x, y] of each speaker in pixels
  let kept = null; // the value whose speakers were chosen in the legend, or null
  let shown = { codes: [], values: [], ranks: [], counts: [] }; // what colours mean

  const list = () => speakers[run.speakers];
  const names = () => list().names;
  const columns = () => [...Object.keys(list().columns), ...(run.clusters ? [CLUSTER] : [])];

  function offer() {
    const before = colouring.value;
    colouring.replaceChildren(...columns().map((name) => new Option(name, name)));
    if (!columns().length) colouring.append(new Option("nothing", ""));
    colouring.value = columns().includes(before) ? before : columns()[0] ?? "";
    colouring.disabled = columns().length < 2;
    recolour();
  }

  function recolour() {
    const name = colouring.value;
    kept = null;
    let codes = names().map(() => 0);
    let values = [];
    if (name === CLUSTER && run.clusters) {
      codes = run.clusters;
      values = Array.from({ length: Math.max(...codes) + 1 }, (_, i) => String(i + 1));
    } else if (name) ({ codes, values } = list().columns[name]);
    const counts = values.map(() => 0);
    for (const code of codes) counts[code] += 1;
    const order = [...values.keys()].sort((a, b) => counts[b] - counts[a] || a - b);
    const ranks = [];
    order.forEach((code, rank) => (ranks[code] = rank));
    shown = { codes, values, ranks, counts };
    legend.replaceChildren(...order.slice(0, numColours).filter((code) => counts[code]).map(entry));
    const rest = order.slice(numColours).filter((code) => counts[code]);
    if (rest.length) {
      const more = document.createElement("li");
      more.className = "note";
      more.textContent = `and ${rest.length.toLocaleString("en")} more in grey`;
      legend.append(more);
    }
  }

  function entry(code) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    const swatch = document.createElement("span");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    swatch.className = "swatch";
    swatch.style.background = `var(--cluster-${shown.ranks[code]})`;
    button.append(swatch, `${shown.values[code] || "unknown"} (${shown.counts[code].toLocaleString("en")})`);
    button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && draw(code));
    button.addEventListener("pointerleave", () => draw());
    button.addEventListener("click", () => {
      kept = kept === code ? null : code;
      for (const other of legend.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button && kept !== null));
      draw();
    });
    item.append(button);
    return item;
  }

  function place() {
    const { width, height } = canvas.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const margin = 18;
    const [across, up] = run.size;
    const scale = Math.min((width - 2 * margin) / Math.max(across, 1), (height - 2 * margin) / Math.max(up, 1));
    const left = (width - scale * across) / 2;
    const bottom = (height + scale * up) / 2;
    places = run.x.map((x, i) => [left + scale * x, bottom - scale * run.y[i]]);
  }

  function draw(pointed = kept) {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    const colours = Array.from({ length: numColours }, (_, i) => of(`--cluster-${i}`));
    const [ink, grey] = [of("--ink"), of("--muted")];
    const area = canvas.getBoundingClientRect();
    const radius = Math.min(5, Math.max(2, Math.sqrt((area.width * area.height) / places.length) / 9));
    const code = pointed ?? (chosen < 0 || !shown.values.length ? null : shown.codes[chosen]);
    const searching = found.length > 0;
    const dot = (speaker, size, alpha) => {
      context.globalAlpha = alpha;
      context.fillStyle = shown.values.length ? colours[shown.ranks[shown.codes[speaker]]] ?? grey : colours[0];
      context.beginPath();
      context.arc(...places[speaker], size, 0, 2 * Math.PI);
      context.fill();
    };
    context.clearRect(0, 0, area.width, area.height);
    const inFocus = (speaker) => !searching && (code === null || shown.codes[speaker] === code);
    for (let i = 0; i < places.length; i++) if (!inFocus(i)) dot(i, radius, 0.14);
    for (let i = 0; i < places.length; i++) if (inFocus(i)) dot(i, radius, 0.8);
    for (const speaker of found) dot(speaker, radius + 1.5, 1);
    if (chosen < 0) return;
    dot(chosen, radius + 2, 1);
    context.globalAlpha = 1;
    context.strokeStyle = ink;
    context.lineWidth = 1.5;
    context.beginPath();
    context.arc(...places[chosen], radius + 4, 0, 2 * Math.PI);
    context.stroke();
    label(names()[chosen], places[chosen], area.width, style, ink);
  }

  function label(text, [x, y], width, style, ink) {
    const short = text.length > 40 ? `${text.slice(0, 39)}…` : text;
    context.font = `600 13px ${style.getPropertyValue("--font")}`;
    const length = context.measureText(short).width;
    const left = Math.min(Math.max(6, x - length / 2), Math.max(6, width - length - 6));
    const base = y > 40 ? y - 16 : y + 26;
    context.fillStyle = style.getPropertyValue("--paper").trim();
    context.globalAlpha = 0.88;
    context.fillRect(left - 5, base - 14, length + 10, 19);
    context.globalAlpha = 1;
    context.fillStyle = ink;
    context.fillText(short, left, base);
  }

  function say() {
    if (chosen >= 0) {
      const known = Object.entries(list().columns).map(([name, { codes, values }]) => `${name} ${values[codes[chosen]] || "unknown"}`);
      const cluster = run.clusters ? run.clusters[chosen] : null;
      const mates = run.clusters ? run.clusters.filter((other) => other === cluster).length : 0;
      if (cluster !== null) known.push(`cluster ${cluster + 1} of ${mates} speaker${mates === 1 ? "" : "s"}`);
      status.textContent = `${[names()[chosen], ...known].join(", ")}.`;
    } else if (search.value.trim()) {
      const listed = found.slice(0, MOST_LISTED).map((speaker) => names()[speaker]).join(", ");
      const more = found.length > MOST_LISTED ? ", …" : "";
      status.textContent = found.length ? `${found.length} found: ${listed}${more}` : "No speaker has that in the name.";
    } else {
      const never = run.clusters ? "" : " This run never clustered.";
      status.textContent = `${names().length.toLocaleString("en")} speakers.${never} The two axes keep ${Math.round(100 * run.explained)}% of the variance.`;
    }
  }

  function update() {
    draw();
    say();
  }

  function choose(speaker) {
    if (speaker === chosen) return;
    chosen = speaker;
    update();
  }

  function find() {
    const wanted = search.value.trim().toLowerCase();
    found = [];
    if (wanted) names().forEach((name, i) => name.toLowerCase().includes(wanted) && found.push(i));
    chosen = found.length === 1 ? found[0] : -1;
    update();
  }

  function nearest(event) {
    const area = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - area.left, event.clientY - area.top];
    let best = -1;
    let least = REACH * REACH;
    places.forEach(([left, top], i) => {
      const distance = (left - x) ** 2 + (top - y) ** 2;
      if (distance < least) [best, least] = [i, distance];
    });
    return best;
  }

  canvas.addEventListener("pointermove", (event) => choose(nearest(event)));
  canvas.addEventListener("pointerdown", (event) => choose(nearest(event)));
  canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && choose(-1));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") choose(-1);
    if (!step) return;
    event.preventDefault();
    const order = found.length ? found : [...names().keys()];
    const at = order.indexOf(chosen);
    choose(order[at < 0 ? (step > 0 ? 0 : order.length - 1) : (at + step + order.length) % order.length]);
  });
  search.addEventListener("input", find);
  colouring.addEventListener("change", () => {
    recolour();
    update();
  });
  chooser.addEventListener("change", () => {
    run = runs[chooser.value];
    offer();
    place();
    find();
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  offer();
  new ResizeObserver(() => {
    place();
    update();
  }).observe(canvas);
})();
