/* The explorer in the browser: it draws what the session shows (the traits view, progress and the pictures), and sends
   what the person does as messages {do: ACTION, ...}. It keeps no state of its own but which panel is open. */

const PICTURES = ["source", "result", "target", "difference", "estimate", "channels", "tiles", "film"];
const PANELS = [
  ["timeline", "Timeline"],
  ["triplets", "Triplets"],
  ["edit", "Edit"],
  ["upload", "Your picture"],
  ["keep", "Keep"],
];
const LIVE_MS = 150; // between two previews while a slider moves
const LARGEST = 8e6; // bytes of a file: Jupyter's connection takes no messages much larger
const SUBSCRIPTS = "₁₂₃₄₅₆₇₈";

let ids = 0;
const unique = (what) => `lsvd-${what}-${++ids}`;

/** An element with attributes and children; on* attributes are listeners. */
function h(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "text", "polygon", "g", "title"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const at = (value, path) => path.split(".").reduce((part, name) => (part == null ? part : part[name]), value);
const short = (number) => String(Math.round(number * 1000) / 1000);

function render({ model, el }) {
  const view = () => model.get("view");
  const send = (action, values = {}, buffers = []) => model.send({ do: action, ...values }, undefined, buffers);
  const bound = []; // functions that bring the controls up to date
  const urls = {};
  const listeners = [];
  const on = (name, react) => {
    model.on(name, react);
    listeners.push([name, react]);
  };

  // Controls

  function labelled(label, control, { hint = "", wide = false } = {}) {
    control.id = control.id || unique("control");
    if (hint) control.title = hint;
    return h("div", { class: wide ? "field wide" : "field" }, h("label", { for: control.id }, label), control);
  }

  /** A control that follows the recipe where that changes; what was typed and not yet sent stays. */
  function bind(control, path, show) {
    let last;
    bound.push(() => {
      const value = at(view().recipe, path);
      if (last === JSON.stringify(value)) return;
      last = JSON.stringify(value);
      show(value);
    });
    return control;
  }

  function textInput(path, attributes = {}) {
    const input = h("input", { type: "text", spellcheck: "false", autocomplete: "off", ...attributes });
    return bind(input, path, (value) => (input.value = value ?? ""));
  }

  function numberInput(path, attributes = {}) {
    const input = h("input", { type: "number", ...attributes });
    return bind(input, path, (value) => (input.value = value === null || value === undefined ? "" : short(value)));
  }

  /** A slider that follows the keys by itself: in JupyterLab they may not get as far as the browser's own handling. */
  function keyed(range) {
    range.addEventListener("keydown", (event) => {
      const [low, high, step] = [Number(range.min), Number(range.max), Number(range.step)];
      const moves = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5 };
      const to = { Home: low, End: high }[event.key] ?? range.valueAsNumber + step * moves[event.key];
      if (Number.isNaN(to)) return;
      event.preventDefault();
      event.stopPropagation();
      const before = range.value;
      range.value = Math.min(high, Math.max(low, to));
      if (range.value === before) return;
      for (const name of ["input", "change"]) range.dispatchEvent(new Event(name, { bubbles: true }));
    });
    return range;
  }

  /** A slider with its number beside it. The number takes any value, the slider those of its range. */
  function slider(path, label, { min, max, step, live = false, hint = "", reset = null, compact = false }) {
    const name = unique("slider");
    const range = keyed(h("input", { type: "range", min, max, step, id: name, "aria-describedby": `${name}-hint` }));
    const exact = h("input", { type: "number", step, "aria-label": `${label}, as a number` });
    const show = (value) => {
      range.value = value;
      if (document.activeElement !== exact) exact.value = short(value);
      range.style.setProperty("--part", `${(100 * (range.value - min)) / (max - min)}%`);
    };
    let last = 0;
    range.addEventListener("input", () => {
      range.dataset.held = "1";
      show(range.valueAsNumber);
      const now = performance.now();
      if (live && now - last > LIVE_MS) {
        last = now;
        send("set", { path, value: range.valueAsNumber, live: true });
      }
    });
    range.addEventListener("change", () => {
      delete range.dataset.held;
      send("set", { path, value: range.valueAsNumber });
    });
    exact.addEventListener("change", () => send("set", { path, value: exact.valueAsNumber }));
    if (reset !== null) range.addEventListener("dblclick", () => send("set", { path, value: reset }));
    bound.push(() => {
      const value = at(view().recipe, path);
      if (!range.dataset.held && value !== null && value !== undefined) show(value);
    });
    return h(
      "div",
      { class: compact ? "slider compact" : "slider" },
      h("label", { for: name }, label),
      range,
      exact,
      h("span", { id: `${name}-hint`, class: hint ? "hint" : "unseen" }, hint || `from ${min} to ${max}`),
    );
  }

  function select(path, options, attributes = {}) {
    const control = h("select", attributes, ...options.map(([value, text]) => h("option", { value }, text)));
    control.addEventListener("change", () => {
      const value = control.value;
      send("set", { path, value: value === "" ? null : attributes["data-number"] ? Number(value) : value });
    });
    return bind(control, path, (value) => (control.value = value ?? ""));
  }

  function button(text, act, attributes = {}) {
    return h("button", { type: "button", onclick: act, ...attributes }, text);
  }

  function fileButton(text, accept, take, hint) {
    const input = h("input", { type: "file", accept, class: "unseen", tabindex: -1, "aria-hidden": "true", "aria-label": text });
    input.addEventListener("change", async () => {
      const [file] = input.files;
      if (file) await hand(file, take);
      input.value = "";
    });
    return h("span", {}, input, button(text, () => input.click(), { title: hint }));
  }

  async function hand(file, take) {
    if (file.size > LARGEST) complain(`${file.name} has more than 8 MB: choose a smaller file.`);
    else take(file.name, await file.arrayBuffer());
  }

  // Pictures

  function picture(name, caption) {
    const image = h("img", { alt: "", draggable: "false" });
    const text = h("figcaption", {}, caption);
    return { image, text, node: h("figure", { class: `picture ${name}`, "data-picture": name }, image, text) };
  }

  function url(name) {
    const bytes = model.get(name);
    const known = urls[name];
    if (known && known.bytes === bytes) return known.url;
    if (known && known.url) URL.revokeObjectURL(known.url);
    const filled = bytes && bytes.byteLength > 0;
    urls[name] = { bytes, url: filled ? URL.createObjectURL(new Blob([bytes], { type: "image/png" })) : "" };
    return urls[name].url;
  }

  // Head: what to draw

  const first = view().model;
  const stop = button("Stop", () => send("stop"), { class: "stop", title: "end here, and keep what is there" });
  const drawButton = h("button", { type: "submit", class: "main" }, "Draw");
  const prompt = textInput("request.prompt", { placeholder: "what to draw" });
  const negative = textInput("request.negative", { placeholder: "none" });
  const seed = numberInput("request.seed", { min: 0, max: 4294967295, step: 1 });
  const steps = numberInput("request.steps", { min: 1, max: first.T, step: 1 });
  const guidance = numberInput("request.guidance", { min: 0, max: 50, step: 0.5 });
  const scheduler = h("select", {}, ...first.schedulers.map((name) => h("option", { value: name }, name.replace("Scheduler", ""))));
  bind(scheduler, "request.scheduler", (value) => (scheduler.value = value));
  const request = () => ({
    ...(first.prompts ? { prompt: prompt.value, negative: negative.value, guidance: guidance.valueAsNumber } : {}),
    seed: seed.valueAsNumber,
    steps: steps.valueAsNumber,
    scheduler: scheduler.value,
  });
  const draw = (changes = {}) => send("draw", { request: { ...request(), ...changes } });
  for (const control of [prompt, negative, guidance]) control.disabled = !first.prompts;
  if (!first.prompts) prompt.placeholder = view().missing.prompts;
  const undo = button("↶ Undo", () => send("undo"), { title: "take back the last change" });
  const redo = button("↷ Redo", () => send("redo"), { title: "do it again" });
  const form = h(
    "form",
    {
      class: "request",
      novalidate: true, // the session says in a sentence what is wrong
      "aria-label": "what to draw",
      onsubmit: (event) => {
        event.preventDefault();
        draw();
      },
    },
    labelled("Prompt", prompt, { wide: true }),
    labelled("Negative prompt", negative, { hint: "what not to draw" }),
    h(
      "div",
      { class: "numbers" },
      labelled("Seed", seed, { hint: "which picture" }),
      button("next", () => draw({ seed: seed.valueAsNumber + 1 }), { title: "draw the next seed", "aria-label": "next seed" }),
      labelled("Steps", steps, { hint: "of the sampler" }),
      labelled("Guidance", guidance, { hint: "how much the prompt counts" }),
      labelled("Scheduler", scheduler),
      h("span", { class: "buttons" }, drawButton, stop, undo, redo),
    ),
  );

  // Status

  const bar = h("progress", { max: 1, value: 0, "aria-label": "progress" });
  const doing = h("span", { class: "doing" });
  const note = h("p", { class: "note", role: "status", "aria-live": "polite" });
  let own = ""; // a complaint of the front's own
  function complain(text) {
    own = text;
    showMessage();
  }
  function showMessage() {
    const { message, remarks } = view();
    const text = [own || message.text, ...remarks].filter(Boolean).join(" ");
    if (note.textContent !== text) note.textContent = text;
    note.className = own || message.kind === "error" ? "note error" : "note";
    note.hidden = !text;
  }
  function showProgress() {
    const { busy, label, done, total, left } = model.get("progress");
    stop.disabled = !busy;
    root.classList.toggle("busy", busy);
    root.setAttribute("aria-busy", busy);
    bar.value = busy && total ? done / total : 0;
    const seconds = view().seen.seconds;
    const rest = left === null || left === undefined ? "" : `, ${left < 9.95 ? left.toFixed(1) : Math.round(left)} s left`;
    if (busy) doing.textContent = label ? `${label}: step ${done} of ${total}${rest}` : "";
    else doing.textContent = seconds === undefined ? "" : `done in ${seconds.toFixed(1)} s`;
  }

  // Stage: the pictures

  const stage = Object.fromEntries(["source", "result", "target", "difference"].map((name) => [name, picture(name, "")]));
  const readings = h("table", { class: "readings" });
  const readingBox = h("div", { class: "reads" }, readings);
  const stageBox = h("div", { class: "stage" }, ...Object.values(stage).map((each) => each.node), readingBox);
  const titles = { source: "Source", result: "Result", target: "Target", difference: "Difference" };

  function showStage() {
    const { seen, missing } = view();
    const labels = seen.labels || {};
    for (const [name, part] of Object.entries(stage)) {
      const link = url(name);
      part.node.hidden = !link && name !== "source";
      part.node.classList.toggle("growing", seen.growing === name);
      if (link) part.image.src = link;
      else part.image.removeAttribute("src");
      const label = seen.growing === name ? view().recipe.upload && name === "source" ? "your picture; its noise is looked for" : "estimate, still being drawn" : labels[name] || "";
      part.image.alt = link ? `${titles[name]}: ${label}` : "";
      part.text.replaceChildren(h("strong", {}, titles[name]), ` ${label}`);
    }
    const rows = seen.readings || [];
    const compared = Boolean(url("result"));
    readings.replaceChildren(
      h("caption", {}, missing.reader || (compared ? "What the reader reads, most moved first" : "What the reader reads")),
      h(
        "tbody",
        {},
        ...(compared ? rows.slice(0, 12) : rows).map((row) =>
          h(
            "tr",
            { class: compared && row.moved > 0.1 ? "moved" : "" },
            h("th", { scope: "row" }, row.name, row.unit ? h("small", {}, ` ${row.unit}`) : null),
            h("td", {}, row.before === row.after ? row.before : `${row.before} → ${row.after}`),
          ),
        ),
      ),
    );
  }

  // Panel: timeline (its slider is shared with the triplets')

  function timeSlider() {
    const name = unique("t");
    const range = keyed(h("input", { type: "range", min: 0, max: 1, step: 1, id: name }));
    const text = h("output", { for: name });
    const fraction = () => (view().seen.fractions || [])[range.max - range.valueAsNumber];
    let last = 0;
    const label = () => {
      const { timesteps } = view().seen;
      const t = timesteps ? timesteps[range.max - range.valueAsNumber] : 0;
      text.textContent = `t = ${short(t)} of ${view().model.T}`;
      range.setAttribute("aria-valuetext", text.textContent);
      range.style.setProperty("--part", `${(100 * range.value) / (range.max || 1)}%`);
    };
    range.addEventListener("input", () => {
      range.dataset.held = "1";
      label();
      const now = performance.now();
      if (now - last > LIVE_MS) {
        last = now;
        send("set", { path: "t", value: fraction(), live: true });
      }
    });
    range.addEventListener("change", () => {
      delete range.dataset.held;
      send("set", { path: "t", value: fraction() });
    });
    bound.push(() => {
      const { timesteps, t } = view().seen;
      range.disabled = !timesteps || !timesteps.length;
      if (range.disabled || range.dataset.held) return;
      range.max = timesteps.length - 1;
      range.value = timesteps.length - 1 - timesteps.indexOf(t);
      label();
    });
    return h(
      "div",
      { class: "slider time" },
      h("label", { for: name }, "Timestep"),
      h("span", { class: "end" }, "picture"),
      range,
      h("span", { class: "end" }, "noise"),
      text,
    );
  }

  const film = h("div", { class: "film", role: "group", "aria-label": "estimates along the timeline" });
  let filmShown = "";
  function showFilm() {
    const link = url("film");
    const { film: times, timesteps, fractions, t } = view().seen;
    if (!link || !times || !fractions || !fractions.length) {
      film.replaceChildren();
      filmShown = "";
      return;
    }
    const key = link + times;
    if (key !== filmShown) {
      filmShown = key;
      film.replaceChildren(
        ...times.map((time, i) =>
          h(
            "button",
            {
              type: "button",
              "data-t": time,
              "aria-label": `go to t = ${short(time)}`,
              onclick: () => send("set", { path: "t", value: view().seen.fractions[view().seen.timesteps.indexOf(time)] }),
            },
            sprite(link, i, times.length),
            h("span", {}, `t = ${short(time)}`),
          ),
        ),
      );
    }
    const nearest = times.reduce((best, time) => (Math.abs(time - t) < Math.abs(best - t) ? time : best), times[0]);
    for (const child of film.children) child.setAttribute("aria-current", String(Number(child.dataset.t) === nearest));
  }

  function sprite(link, i, count) {
    const node = h("span", { class: "sprite", "aria-hidden": "true" });
    node.style.backgroundImage = `url("${link}")`;
    node.style.backgroundSize = `${count * 100}% 100%`;
    node.style.backgroundPosition = count > 1 ? `${(100 * i) / (count - 1)}% 0` : "0 0";
    return node;
  }

  const estimate = picture("estimate", "");
  const channels = picture("channels", "");
  const chart = h("div", { class: "chart" });
  const timeline = h(
    "div",
    { class: "timeline" },
    timeSlider(),
    film,
    h("div", { class: "moment" }, estimate.node, channels.node, chart),
  );

  function showMoment() {
    const { seen, recipe, model: info } = view();
    if (seen.t === undefined) return;
    const link = url("estimate");
    estimate.node.hidden = !link;
    if (link) estimate.image.src = link;
    estimate.image.alt = `the clean picture as the sampler sees it at t = ${short(seen.t)}`;
    estimate.text.replaceChildren(h("strong", {}, "Estimate"), ` of the picture at t = ${short(seen.t)}`);
    channels.image.src = url("channels");
    channels.image.alt = `the ${info.channels} channels of the code at t = ${short(seen.t)}`;
    channels.text.replaceChildren(h("strong", {}, "Code"), ` ${info.channels} channels; blue below 0, red above`);
    const { values, scaled, low, high } = seen.spectrum;
    const where = recipe.triplets.channel === null ? "mean of channels" : `channel ${recipe.triplets.channel + 1}`;
    chart.replaceChildren(spectrum(values, scaled, low, high, where));
  }

  function spectrum(values, scaled, low, high, where) {
    const [width, height, left, bottom, top] = [340, 200, 34, 30, 8];
    const positive = [...values, ...scaled.map(Math.abs), ...low].filter((v) => v > 0);
    const most = Math.log10(Math.max(...positive, ...high) * 1.15);
    const least = Math.max(Math.log10(Math.min(...positive)), most - 3);
    const x = (i) => left + ((width - left - 8) * i) / Math.max(1, values.length - 1);
    const y = (v) => top + ((height - top - bottom) * (most - Math.max(least, Math.log10(Math.max(Math.abs(v), 1e-12))))) / (most - least);
    const line = (list) => list.map((v, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(v).toFixed(1)}`).join("");
    const band = [...high.map((v, i) => `${x(i)},${y(v)}`), ...low.map((v, i) => `${x(i)},${y(v)}`).reverse()].join(" ");
    const ticks = [];
    for (let power = Math.ceil(least); power <= Math.floor(most); power++) ticks.push(power);
    const changed = scaled.some((v, i) => Math.abs(v - values[i]) > 1e-6 * Math.abs(values[i]));
    const text = `Singular values (${where}): the first is ${short(values[0])}, noise has ${short(low[0])} to ${short(high[0])}.`;
    return h(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": text },
      h("title", {}, text),
      ...ticks.flatMap((power) => [
        h("line", { class: "tick", x1: left, x2: width - 8, y1: y(10 ** power), y2: y(10 ** power) }),
        h("text", { x: left - 4, y: y(10 ** power) + 4, "text-anchor": "end" }, short(10 ** power)),
      ]),
      h("polygon", { class: "band", points: band }),
      changed ? h("path", { class: "was", d: line(values) }) : h("path", { class: "values", d: line(values) }),
      changed ? h("path", { class: "values", d: line(scaled) }) : null,
      h("text", { x: (left + width) / 2, y: height - 4, "text-anchor": "middle" }, `triplet 1 to ${values.length}`),
      h("text", { class: "key", x: width - 10, y: top + 12, "text-anchor": "end" }, `singular values, ${where}`),
      h("text", { class: "key faint", x: width - 10, y: top + 27, "text-anchor": "end" }, "band: noise"),
    );
  }

  // Panel: triplets

  const count = view().sliders;
  const cards = Array.from({ length: count + 1 }, (_, i) => {
    const rest = i === count;
    const path = rest ? "triplets.rest" : `triplets.factors.${i}`;
    const tile = h("span", { class: "sprite", role: "img" });
    const share = h("span", { class: "share" });
    const name = rest ? "the rest" : `σ${SUBSCRIPTS[i]}`;
    const control = slider(path, name, { min: 0, max: 2, step: 0.05, live: true, reset: 1, compact: true });
    control.querySelector("input[type=range]").title = "double click for 1";
    return { tile, share, rest, name, node: h("div", { class: "card" }, tile, share, control) };
  });
  const channelOptions = [["", "all channels"], ...Array.from({ length: first.channels }, (_, i) => [i, `channel ${i + 1}`])];
  const triplets = h(
    "div",
    { class: "triplets" },
    timeSlider(),
    h(
      "div",
      { class: "row" },
      labelled("Scale in", select("triplets.channel", channelOptions, { "data-number": true })),
      button("Reset", () => send("reset", { part: "triplets" }), { title: "all factors back to 1" }),
      h("p", { class: "hint" }, "A code is a sum of rank-one pictures, each as large as its singular value σ. Turn them up or down: the picture is redrawn from t on."),
    ),
    h("div", { class: "cards" }, ...cards.map((card) => card.node)),
  );

  function showCards() {
    const link = url("tiles");
    const { energy } = view().seen;
    if (!link || !energy) return;
    cards.forEach((card, i) => {
      card.tile.style.backgroundImage = `url("${link}")`;
      card.tile.style.backgroundSize = `${(count + 1) * 100}% 100%`;
      card.tile.style.backgroundPosition = `${(100 * i) / count}% 0`;
      card.tile.setAttribute("aria-label", card.rest ? "the rest of the code" : `rank-one picture of triplet ${i + 1}`);
      const share = card.rest ? energy.slice(count).reduce((a, b) => a + b, 0) : energy[i];
      card.share.textContent = `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}% of the energy`;
    });
  }

  // Panel: edit

  const target = textInput("edit.target", { placeholder: "a young person" });
  const methods = h("select", {}, ...first.methods.map((each) => h("option", { value: each.name }, each.label)));
  bind(methods, "edit.method", (value) => (methods.value = value));
  methods.addEventListener("change", () => send("set", { path: "edit.method", value: methods.value }));
  const methodNote = h("p", { class: "hint" });
  const whole = { min: 1, max: first.rank, step: 1 };
  const fraction = { min: 0, max: 1, step: 0.02 };
  const weightNames = ["near the target (L1)", "near the source (L2)", "target's σ (L3)", "source's σ (L4)"];
  const weights = h(
    "fieldset",
    {},
    h("legend", {}, "Weights of the losses"),
    ...weightNames.map((label, i) => {
      const input = numberInput(`edit.weights.${i}`, { min: 0, max: 100, step: 0.01 });
      input.addEventListener("change", () => send("set", { path: `edit.weights.${i}`, value: input.valueAsNumber }));
      return labelled(label, input);
    }),
  );
  const rest = h("input", { type: "checkbox" });
  bind(rest, "edit.keep_rest", (value) => (rest.checked = Boolean(value)));
  rest.addEventListener("change", () => send("set", { path: "edit.keep_rest", value: rest.checked }));
  const basis = select("edit.basis", [["both", "both: the leading triplets of each"], ["complement", "complement: target's leading, source's others"]]);
  const attributeList = h("div", { class: "attributes" });
  const controls = {
    target: h("form", { class: "row", onsubmit: (event) => { event.preventDefault(); send("set", { path: "edit.target", value: target.value }); } },
      labelled("Target prompt", target, { wide: true }), h("button", { type: "submit", class: "main" }, "Edit")),
    strength: slider("edit.strength", "Strength", { min: -0.5, max: 1.5, step: 0.05, live: true, reset: 1, hint: "0 the source, 1 as learned" }),
    tx: slider("edit.tx", "Tx", { ...fraction, hint: "where the code is edited, as a fraction of T" }),
    dtau: slider("edit.dtau", "Δτ", { min: -5, max: 5, step: 1, hint: "steps from there to the target's code; above 0 is noisier" }),
    branch: slider("edit.branch", "Branch", { ...fraction, hint: "from where on the target has its prompt; 1: throughout" }),
    k: slider("edit.k", "k", { ...whole, hint: "leading triplets of the target" }),
    rank: slider("edit.rank", "Rank", { ...whole, hint: "triplets of the difference" }),
    start: slider("edit.start", "From", { ...fraction, hint: "where the window begins, as a fraction of T" }),
    stop: slider("edit.stop", "To", { ...fraction, hint: "where the window ends" }),
    basis: labelled("Basis", basis, { wide: true }),
    keep_rest: h("div", { class: "field check" }, rest, h("label", { for: (rest.id = unique("rest")) }, "Keep the source's other triplets")),
    weights,
    attributes: attributeList,
  };
  const learn = button("Keep as an attribute", () => send("learn"), { title: "use what this edit has learned, alone or with others" });
  const openAttribute = fileButton("Open an attribute…", ".safetensors", (name, data) => send("open_attribute", { name }, [data]), "a .safetensors file that was saved here, or by Attribute.save");
  const edit = first.prompts
    ? h(
        "div",
        { class: "edit" },
        controls.target,
        h("div", { class: "row" }, labelled("Method", methods), controls.strength, methodNote),
        h("div", { class: "sliders" }, ...["tx", "dtau", "branch", "k", "rank", "start", "stop", "basis", "keep_rest", "weights"].map((name) => controls[name])),
        attributeList,
        h("div", { class: "row" }, learn, openAttribute, button("Reset", () => send("reset", { part: "edit" }), { title: "the backbone's own settings again" })),
      )
    : h("p", { class: "greyed" }, view().missing.edit);

  let attributesShown = "";
  function showEdit() {
    if (!first.prompts) return;
    const { recipe, learns } = view();
    const method = first.methods.find((each) => each.name === recipe.edit.method);
    for (const [name, node] of Object.entries(controls)) if (name !== "attributes") node.hidden = !method.controls.includes(name);
    methodNote.textContent = method.note;
    learn.disabled = !learns;
    attributeList.hidden = !method.controls.includes("attributes");
    const key = JSON.stringify(recipe.edit.attributes.map((used) => used.digest));
    if (key === attributesShown) return;
    attributesShown = key;
    for (let i = bound.length - 1; i >= 0; i--) if (bound[i].attribute) bound.splice(i, 1);
    const before = bound.length;
    attributeList.replaceChildren(
      ...recipe.edit.attributes.map((used, i) =>
        h(
          "div",
          { class: "row used" },
          slider(`edit.attributes.${i}.strength`, used.name, { min: -0.5, max: 1.5, step: 0.05, live: true, reset: 1 }),
          button("Save", () => send("saved_attribute", { digest: used.digest }), { "aria-label": `save ${used.name}` }),
          button("Remove", () => send("drop_attribute", { digest: used.digest }), { "aria-label": `remove ${used.name}` }),
        ),
      ),
    );
    if (!recipe.edit.attributes.length) attributeList.append(h("p", { class: "hint" }, "None yet: edit by AVI and keep what it learned, or open a file."));
    for (const each of bound.slice(before)) {
      each.attribute = true;
      each();
    }
  }

  // Panel: a picture of one's own

  const iterations = numberInput("upload.iterations", { min: 0, max: 100, step: 1 });
  iterations.addEventListener("change", () => send("set", { path: "upload.iterations", value: iterations.valueAsNumber }));
  const iterationField = labelled("Iterations a step", iterations, { hint: "more lead back more exactly, and take longer" });
  const found = h("p", { class: "found" });
  const forget = button("Back to drawing", () => send("forget"));
  const take = (name, data) => send("upload", { name }, [data]);
  const upload = h(
    "div",
    { class: "upload" },
    h("p", {}, `Any photograph or drawing; it is resized to ${first.size[1]} × ${first.size[0]} pixels. `,
      first.prompts ? "Write above what it shows: the prompt is part of the way back to the noise. Then timeline, triplets and edits work as on a drawn picture." : "Then timeline and triplets work as on a drawn picture."),
    h("div", { class: "row" }, fileButton("Upload a picture…", "image/*", take, "PNG, JPEG or WebP"), forget, iterationField),
    found,
  );
  function showUpload() {
    const { recipe, seen } = view();
    forget.hidden = iterationField.hidden = !recipe.upload;
    const inversion = seen.inversion;
    found.textContent = !recipe.upload
      ? ""
      : inversion
        ? `${inversion.name}: the noise that was found leads back to within ${(100 * inversion.distance).toPrecision(2)}% of the code` +
          (inversion.distance > 0.05 ? ": raise the iterations, or lower the guidance." : ".")
        : `${recipe.upload.name}: finding the noise that it would be drawn from.`;
  }

  // Panel: keep

  const codeText = h("textarea", { readonly: true, rows: 12, spellcheck: "false", "aria-label": "the code of what is on the screen" });
  const copy = button("Copy", async () => {
    codeText.select();
    let done = true;
    try {
      await navigator.clipboard.writeText(codeText.value);
    } catch {
      done = document.execCommand("copy");
    }
    copy.textContent = done ? "Copied" : "Select and copy it";
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  const back = h("textarea", { rows: 3, spellcheck: "false", placeholder: "paste a cell that was copied here", "aria-label": "a cell to restore from" });
  const files = h("p", { class: "hint" });
  const restoreFile = (name, data) => send("restore", {}, [data]);
  const saveAttribute = button("Attribute (safetensors)", () => send("saved_attribute"), { title: "what the edit on the screen has learned" });
  const keep = h(
    "div",
    { class: "keep" },
    h(
      "div",
      { class: "row" },
      h("strong", {}, "Save"),
      button("Picture (PNG)", () => send("saved_picture"), { title: "with its settings and its code as text in the file" }),
      first.prompts ? saveAttribute : null,
      button("Code (Python)", () => send("saved_code")),
    ),
    h("div", { class: "row" }, h("strong", {}, "Code of what is on the screen"), copy),
    codeText,
    files,
    h("div", { class: "row" }, h("strong", {}, "Restore"), fileButton("From a file…", ".png,.py,.txt", restoreFile, "a PNG or a .py file that was saved here"),
      button("From the text below", () => send("restore", { source: back.value }))),
    back,
  );
  function showKeep() {
    const { code, files: names, learns, recipe } = view();
    if (codeText.value !== code) codeText.value = code;
    saveAttribute.disabled = !(learns && recipe.shown === "edit");
    files.textContent = names.length ? `It reads ${names.join(", ")}: keep it beside the notebook.` : "";
  }

  // Tabs

  const panels = { timeline, triplets, edit, upload, keep };
  let open = "timeline";
  const tabs = PANELS.map(([name, label]) => {
    const panel = h("div", { role: "tabpanel", id: unique(`panel-${name}`), class: "panel", hidden: name !== open }, panels[name]);
    const tab = h("button", { type: "button", role: "tab", id: unique(`tab-${name}`), "data-tab": name, "aria-controls": panel.id }, label);
    panel.setAttribute("aria-labelledby", tab.id);
    tab.addEventListener("click", () => show(name));
    return { name, tab, panel };
  });
  function show(name, focus = false) {
    open = name;
    for (const each of tabs) {
      const here = each.name === name;
      each.tab.setAttribute("aria-selected", here);
      each.tab.tabIndex = here ? 0 : -1;
      each.panel.hidden = !here;
      if (here && focus) each.tab.focus();
    }
  }
  const tabList = h("div", { role: "tablist", class: "tabs", "aria-label": "what to do with the picture" }, ...tabs.map((each) => each.tab));
  tabList.addEventListener("keydown", (event) => {
    const place = tabs.findIndex((each) => each.name === open);
    const to = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(tabs[(to + tabs.length) % tabs.length].name, true);
  });
  show(open);

  // Together. JupyterLab takes keys for its own shortcuts unless it is told not to.

  const root = h(
    "section",
    { class: "lsvd-explorer", "aria-label": `explorer of ${first.name}`, "data-lm-suppress-shortcuts": "true" },
    form,
    h("div", { class: "status" }, bar, doing),
    note,
    stageBox,
    tabList,
    ...tabs.map((each) => each.panel),
  );
  root.addEventListener("dragover", (event) => event.preventDefault());
  root.addEventListener("drop", (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (!file) return;
    if (file.name.endsWith(".safetensors")) hand(file, (name, data) => send("open_attribute", { name }, [data]));
    else hand(file, take);
  });
  el.append(root);

  let waiting = false;
  function refresh() {
    // many traits change at once: one pass for all of them
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      own = "";
      for (const each of [...bound]) each();
      undo.disabled = !view().undo;
      redo.disabled = !view().redo;
      for (const each of [showMessage, showProgress, showStage, showMoment, showFilm, showCards, showEdit, showUpload, showKeep]) each();
      root.dataset.submitted = view().submitted;
      root.dataset.answered = view().answered;
    });
  }
  on("change:view", refresh);
  on("change:progress", showProgress);
  for (const name of PICTURES) on(`change:${name}`, refresh);
  on("msg:custom", (content, buffers) => {
    if (content.save) {
      const link = URL.createObjectURL(new Blob([buffers[0]]));
      h("a", { href: link, download: content.save }).click();
      setTimeout(() => URL.revokeObjectURL(link), 1000);
    }
  });
  refresh();

  return () => {
    for (const [name, react] of listeners) model.off(name, react);
    for (const { url: link } of Object.values(urls)) if (link) URL.revokeObjectURL(link);
  };
}

export default { render };
