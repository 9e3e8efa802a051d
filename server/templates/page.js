// Ask for the state every two seconds and change what is different; texts are only ever texts.
const EVERY = 2000; // milliseconds between two questions
const PATIENCE = 8000; // milliseconds for an answer
const NEWEST = 12; // events that are always shown, as in the style sheet
const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);
const before = {}; // what was shown last, as JSON
let answered = new Date();
let pointed = null; // the site whose row a mouse is over
let tapped = null; // the site whose row was tapped

const say = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};

const make = (tag, attributes = {}, ...content) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...content); // strings become text
  return element;
};

const draw = (tag, attributes, ...content) => {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...content);
  return element;
};

// Call `build` when `value` is not what it was; what is the same stays untouched.
const whenChanged = (name, value, build) => {
  const text = JSON.stringify(value);
  if (before[name] === text) return;
  before[name] = text;
  build(value);
};

const line = (look, path) => [
  draw("path", { class: "line", d: path, stroke: look.colour, "stroke-dasharray": look.dash }),
  draw("path", { d: look.mark, fill: look.colour }),
];

const swatch = (look) =>
  draw("svg", { class: "swatch", viewBox: "0 0 24 12", "aria-hidden": "true" }, ...line(look, "M0 6H24"));

const siteRow = (site, columns) => {
  const name = make("th", { scope: "row", title: site.name }, swatch(site.look), make("span", {}, site.name));
  const cells = site.cells.map((cell, column) =>
    make("td", { class: cell.kind, "data-label": columns[column + 1] }, cell.text));
  return make("tr", { "data-site": site.name }, name, ...cells);
};

const showSites = (state) => {
  const body = at("sites").tBodies[0];
  const shape = [state.columns, state.sites.map((site) => [site.name, site.look])];
  whenChanged("shape", shape, () => {
    const heads = state.columns.map((text) =>
      make("th", text === "What it does" ? { scope: "col", class: "text" } : { scope: "col" }, text));
    at("sites").tHead.rows[0].replaceChildren(...heads);
    body.replaceChildren(...state.sites.map((site) => siteRow(site, state.columns)));
  });
  state.sites.forEach((site, row) => site.cells.forEach((cell, column) => {
    const place = body.rows[row].cells[column + 1];
    say(place, cell.text);
    if (place.className !== cell.kind) place.className = cell.kind;
  }));
};

const showChart = (picture, chart) => {
  const grid = chart.y.flatMap((tick) => [
    draw("path", { class: "grid", d: `M48 ${tick.at}H452` }),
    draw("text", { x: 42, y: tick.at + 4, "text-anchor": "end" }, tick.text),
  ]);
  const turns = chart.x.map((tick) => draw("text", { x: tick.at, y: 230, "text-anchor": "middle" }, tick.text));
  const lines = chart.lines.map((each) =>
    draw("g", { "data-site": each.site, class: each.site ? "" : "mean" }, ...line(each, each.path)));
  const none = draw("text", { class: "none", x: 250, y: 35, "text-anchor": "middle" }, "nothing recorded yet");
  picture.setAttribute("viewBox", `0 0 460 ${chart.height}`);
  picture.replaceChildren(...grid, ...turns, ...(lines.length ? lines : [none]));
};

// The lines of the site that is pointed at or tapped are thick.
const highlight = () => {
  const site = pointed ?? tapped;
  for (const each of document.querySelectorAll("#charts g[data-site], #sites tr[data-site]"))
    each.classList.toggle("shown", site !== null && each.dataset.site === site);
};

// Of many events the newest are shown; the others on demand.
const fold = (count) => {
  const open = at("earlier").ariaExpanded === "true";
  at("events").classList.toggle("folded", !open);
  at("earlier").hidden = count <= NEWEST;
  say(at("earlier"), open ? "Show the newest events alone" : `Show ${count - NEWEST} earlier events`);
};

const show = (state) => {
  document.title = `${state.done}/${state.rounds} ${state.run} · federation ${state.federation}`;
  say(at("run"), state.run);
  whenChanged("facts", state.facts, (facts) => at("facts").replaceChildren(
    ...Object.entries(facts).map(([key, text]) => make("div", {}, make("dt", {}, key), make("dd", {}, text)))));
  at("state").className = `result ${state.mood}`;
  for (const name of ["words", "detail", "progress", "problem"]) say(at(name), state[name]);
  at("rounds").max = Math.max(state.rounds, 1);
  at("rounds").value = state.done;
  showSites(state);
  whenChanged("charts", state.charts, (charts) =>
    document.querySelectorAll("#charts svg").forEach((picture, place) => showChart(picture, charts[place])));
  highlight();
  at("rejections").hidden = !state.rejected.length;
  whenChanged("rejected", state.rejected, (rows) => at("rejected").tBodies[0].replaceChildren(
    ...rows.map((row) => make("tr", {}, ...row.map((text, column) => make("td", { class: column ? "text" : "" }, text))))));
  at("log").hidden = !state.events.length;
  whenChanged("events", state.events, (events) => at("events").tBodies[0].replaceChildren(
    ...events.map((event) => make("tr", {}, make("td", { class: "text time" }, event.time),
      make("td", { class: `text ${event.kind}` }, event.text)))));
  fold(state.events.length);
  say(at("note"), state.over
    ? `State of ${state.time}. It is the last one: the page does not ask any more; load it again for another run.`
    : `State of ${state.time}; asked for every ${EVERY / 1000} s.`);
};

const ask = async () => {
  let over = false;
  try {
    const answer = await fetch("state.json", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    const state = await answer.json();
    if (!answer.ok) throw new Error(state.problem);
    show(state);
    over = state.over;
    answered = new Date();
    at("silence").hidden = true;
  } catch (error) {
    const seconds = Math.round((Date.now() - answered) / 1000);
    const clock = answered.toLocaleTimeString(undefined, { hour12: false });
    say(at("silence").firstElementChild, `The coordinator gives no answer since ${clock} (${seconds} s).`);
    at("silence").hidden = false;
    document.title = `no answer · ${at("run").textContent}`;
  }
  if (!over) setTimeout(ask, EVERY);
};

// A site that a mouse points at is followed while it does; one that is tapped until the next tap.
const siteAt = (event) => event.target.closest("tr[data-site]")?.dataset.site ?? null;
at("sites").addEventListener("pointerover", (event) => {
  pointed = event.pointerType === "touch" ? null : siteAt(event);
  highlight();
});
at("sites").addEventListener("pointerleave", () => {
  pointed = null;
  highlight();
});
at("sites").addEventListener("click", (event) => {
  const site = siteAt(event);
  tapped = site === tapped ? null : site;
  highlight();
});
at("earlier").addEventListener("click", () => {
  at("earlier").ariaExpanded = at("earlier").ariaExpanded === "true" ? "false" : "true";
  fold(at("events").tBodies[0].rows.length);
});
fold(at("events").tBodies[0].rows.length);

if (document.body.dataset.over === "no") ask();
