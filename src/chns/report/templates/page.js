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
})();
(() => {
  const source = document.getElementById("map-data");
  if (!source) return;
  const { num_colours: numColours, speakers, runs } = JSON.parse(source.textContent);
  const canvas = document.getElementById("map-canvas");
  const status = document.getElementById("map-status");
  const search = document.getElementById("map-search");
  const context = canvas.getContext("2d");
  const REACH = 24; // pixels from the pointer to a speaker
  const MOST_LISTED = 8;
  const clustered = runs.findIndex((one) => one.clusters);
  const chooser = document.getElementById("map-run");
  chooser.value = Math.max(clustered, 0);
  let run = runs[chooser.value];
  let chosen = -1; // the speaker under the pointer, or -1
  let found = []; // the speakers that the search box matches
  let places = []; // [x, y] of each speaker in pixels

  const names = () => speakers[run.speakers];
  const clusterOf = (speaker) => (run.clusters ? run.clusters[speaker] : null);

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

  function draw() {
    const style = getComputedStyle(document.documentElement);
    const colours = Array.from({ length: numColours }, (_, i) => style.getPropertyValue(`--cluster-${i}`).trim());
    const ink = style.getPropertyValue("--ink").trim();
    const area = canvas.getBoundingClientRect();
    const radius = Math.min(5, Math.max(2, Math.sqrt((area.width * area.height) / places.length) / 9));
    const cluster = chosen < 0 ? null : clusterOf(chosen);
    const searching = found.length > 0;
    const dot = (speaker, size, alpha) => {
      context.globalAlpha = alpha;
      context.fillStyle = colours[(clusterOf(speaker) ?? 0) % numColours];
      context.beginPath();
      context.arc(...places[speaker], size, 0, 2 * Math.PI);
      context.fill();
    };
    context.clearRect(0, 0, area.width, area.height);
    for (let i = 0; i < places.length; i++) {
      const inFocus = searching ? false : cluster === null || clusterOf(i) === cluster;
      dot(i, radius, inFocus ? 0.8 : 0.16);
    }
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
    const shown = text.length > 40 ? `${text.slice(0, 39)}…` : text;
    context.font = `600 13px ${style.getPropertyValue("--font")}`;
    const length = context.measureText(shown).width;
    const left = Math.min(Math.max(6, x - length / 2), Math.max(6, width - length - 6));
    const base = y > 40 ? y - 16 : y + 26;
    context.fillStyle = style.getPropertyValue("--paper").trim();
    context.globalAlpha = 0.88;
    context.fillRect(left - 5, base - 14, length + 10, 19);
    context.globalAlpha = 1;
    context.fillStyle = ink;
    context.fillText(shown, left, base);
  }

  function say() {
    const kept = `The two axes keep ${Math.round(100 * run.explained)}% of the variance.`;
    if (chosen >= 0) {
      const cluster = clusterOf(chosen);
      const mates = cluster === null ? 0 : run.clusters.filter((other) => other === cluster).length;
      const where = cluster === null ? "" : `, cluster ${cluster + 1} of ${mates} speaker${mates === 1 ? "" : "s"}`;
      status.textContent = `${names()[chosen]}${where}.`;
    } else if (search.value.trim()) {
      const listed = found.slice(0, MOST_LISTED).map((speaker) => names()[speaker]).join(", ");
      const more = found.length > MOST_LISTED ? ", …" : "";
      status.textContent = found.length ? `${found.length} found: ${listed}${more}` : "No speaker has that in the name.";
    } else {
      const colour = run.clusters ? "Colours are clusters, and come round again." : "This run never clustered.";
      status.textContent = `${names().length.toLocaleString("en")} speakers. ${colour} ${kept}`;
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
  chooser.addEventListener("change", () => {
    run = runs[chooser.value];
    place();
    find();
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new ResizeObserver(() => {
    place();
    update();
  }).observe(canvas);
})();
