
"use strict";
// The prompt browser. Facts reach the page as text nodes and as values of constant attributes, never as markup.

const facts = JSON.parse(document.getElementById("facts").textContent);
const prompts = facts.prompts;
const at = (id) => document.getElementById(id);
const SHAPES = { chosen: "▲", rejected: "◆", compared: "■" };
let matching = prompts.map((_, i) => i);
let shown = 0;

// Elements

function build(space, name, attributes, children) {
  const node = document.createElementNS(space, name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(key, value);
  for (const child of children) {
    node.append(child instanceof Node ? child : document.createTextNode(child ?? ""));
  }
  return node;
}
const h = (name, attributes, ...children) => build("http://www.w3.org/1999/xhtml", name, attributes, children);
const s = (name, attributes, ...children) => build("http://www.w3.org/2000/svg", name, attributes, children);

// Numbers, as page.py writes them

function number(value) {
  if (value === null || value === undefined) return "–";
  const whole = Number.isInteger(value) || Math.abs(value) >= 1e4;
  const text = whole ? Math.round(value).toLocaleString("en-US") : String(Number(value.toPrecision(4)));
  return text.replace("-", "−");
}
function signed(value) {
  if (value === null || value === undefined) return "–";
  return (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
}

// Who picked what

function role(pick) {
  if (pick.side === "chosen") return "chosen";
  return pick.rule === facts.rules.rejected ? "rejected" : "compared";
}
function picksOf(prompt, id) {
  return prompt.picks.filter((pick) => pick.id === id);
}
function namesOf(picks) {
  const bySide = new Map();
  for (const pick of picks) bySide.set(pick.side, [...(bySide.get(pick.side) ?? []), pick.rule]);
  return [...bySide].map(([side, rules]) => `${side} by ${rules.join(" and ")}`).join(", ");
}

// The strip: every scored candidate at its score

function strip(prompt, width) {
  const scored = prompt.candidates.filter((c) => c.score !== null).sort((a, b) => a.score - b.score);
  if (!scored.length) return h("p", { class: "none" }, "No candidate of this prompt has a score.");
  const levels = levelsOf(prompt);
  const values = [...scored.map((c) => c.score), ...levels.map((level) => level.value)];
  let low = Math.min(...values), high = Math.max(...values);
  if (high === low) [low, high] = [low - 0.5, high + 0.5];
  const margin = 12;
  const x = (value) => margin + ((value - low) / (high - low)) * (width - 2 * margin);
  const dots = stack(scored, x, scored.length > 40 ? 4 : 5.5);
  const base = 14 * levels.length + 10 + Math.max(dots.height, 24);
  const lanes = prompt.picks.filter((pick) => scored.some((c) => c.id === pick.id));
  const height = base + 40 + 20 * lanes.length;
  const drawing = s("svg", { class: "strip", viewBox: `0 0 ${width} ${height}`, width: "100%", role: "group",
    "aria-label": `${scored.length} candidates on the score line; the table of all candidates below says the same` });
  drawing.append(...axis(scored, low, high, x, base, width), ...levelLines(levels, x, base, width));
  const drawn = lanes.map((pick, i) => lane(pick, scored, x, dots, base, base + 54 + 20 * i, width));
  drawing.prepend(...drawn.map(([leader]) => leader));
  drawing.append(...drawn.flatMap(([, ...named]) => named), points(prompt, scored, dots, base));
  return drawing;
}

function levelsOf(prompt) {
  if (prompt.mean === null) return [];
  const mean = { name: "mean", value: prompt.mean, style: "level" };
  if (!prompt.sd) return [mean];
  return [mean, { name: "−1σ", value: prompt.mean - prompt.sd, style: "level minus1" },
    { name: "−2σ", value: prompt.mean - 2 * prompt.sd, style: "level minus2" }];
}

// Dots that would overlap are stacked, never moved sideways: the horizontal place is the score.
function stack(scored, x, radius) {
  const ends = [];
  const level = scored.map((candidate) => {
    const px = x(candidate.score);
    let i = ends.findIndex((end) => end + 2 * radius <= px + 1e-9);
    if (i < 0) i = ends.length;
    ends[i] = px;
    return i;
  });
  const pitch = Math.min(2 * radius, 160 / ends.length);
  const place = new Map(scored.map((c, i) => [c.id, { cx: x(c.score), up: radius + 3 + pitch * level[i] }]));
  return { place, radius, height: pitch * (ends.length - 1) + 2 * radius + 6 };
}

function label(text, px, y, width, attributes, gap = 5) {
  const room = 6.6 * text.length + gap;
  const left = px + room > width && px - room > 0;
  const start = left || px + room <= width ? px + (left ? -gap : gap) : Math.max(0, width - room);
  return s("text", { ...attributes, x: start, y, "text-anchor": left ? "end" : "start" }, text);
}

function levelLines(levels, x, base, width) {
  return levels.flatMap((level, i) => {
    const px = x(level.value), y = 11 + 14 * i;
    return [s("line", { class: level.style, x1: px, x2: px, y1: y - 8, y2: base }),
      label(`${level.name} ${number(level.value)}`, px, y, width, { class: "named" })];
  });
}

function axis(scored, low, high, x, base, width) {
  const step = niceStep((high - low) / Math.max(2, Math.floor(width / 90)));
  const parts = [s("line", { class: "axis", x1: 0, x2: width, y1: base, y2: base })];
  for (let k = Math.ceil(low / step); k * step <= high; k++) {
    const px = x(k * step);
    parts.push(s("line", { class: "axis", x1: px, x2: px, y1: base, y2: base + 4 }),
      s("text", { x: px, y: base + 15, "text-anchor": "middle" }, number(Number((k * step).toPrecision(12)))));
  }
  const least = scored[0].score, most = scored[scored.length - 1].score;
  const ends = least === most ? [["all", least]] : [["min", least], ["max", most]];
  for (const [name, value] of ends) {
    const px = x(value);
    parts.push(s("line", { class: "axis", x1: px, x2: px, y1: base, y2: base + 32 }),
      label(`${name} ${number(value)}`, px, base + 31, width, { class: "named" }));
  }
  return parts;
}

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= rough * (1 - 1e-9));
}

// One line per rule under the axis, so that labels never collide.
function lane(pick, scored, x, dots, base, y, width) {
  const candidate = scored.find((c) => c.id === pick.id);
  const kind = role(pick), px = x(candidate.score), top = base - dots.place.get(candidate.id).up;
  const shape = { chosen: "M0 -6 L6 5 H-6 Z", rejected: "M0 -6 L6 0 L0 6 L-6 0 Z", compared: "M-5 -5 H5 V5 H-5 Z" }[kind];
  return [s("line", { class: `leader ${kind}`, x1: px, x2: px, y1: top, y2: y - 4 }),
    s("path", { class: kind, d: shape, transform: `translate(${px} ${y - 4})` }),
    label(`${pick.side}: ${pick.rule}`, px, y, width, { class: kind }, 11)];
}

function points(prompt, scored, dots, base) {
  const group = s("g", { role: "listbox", "aria-label": "Candidates, lowest score first" });
  scored.forEach((candidate, i) => {
    const { cx, up } = dots.place.get(candidate.id);
    const picks = picksOf(prompt, candidate.id);
    const words = [`candidate ${candidate.id}`, `score ${number(candidate.score)}`, `z ${signed(candidate.z)}`, namesOf(picks), candidate.reason];
    const told = words.filter(Boolean).join(", ");
    const style = ["dot", candidate.reason ? "aside" : "", ...(picks.length ? ["pick", role(picks[0])] : [])].join(" ");
    group.append(s("circle", { class: style, cx, cy: base - up, r: dots.radius + (picks.length ? 1 : 0), role: "option",
      "aria-label": told, "aria-selected": "false", tabindex: i ? -1 : 0, "data-id": candidate.id }, s("title", {}, told)));
  });
  const all = [...group.children];
  const go = (i) => all[Math.max(0, Math.min(all.length - 1, i))].focus();
  group.addEventListener("keydown", (event) => {
    const i = all.indexOf(event.target);
    const to = { ArrowRight: i + 1, ArrowUp: i + 1, ArrowLeft: i - 1, ArrowDown: i - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to !== undefined) { event.preventDefault(); go(to); }
  });
  group.addEventListener("click", (event) => { if (all.includes(event.target)) go(all.indexOf(event.target)); });
  group.addEventListener("focusin", (event) => read(prompt, scored[all.indexOf(event.target)]));
  return group;
}

// Texts

function read(prompt, candidate) {
  for (const dot of document.querySelectorAll(".dot")) {
    const chosen = dot.dataset.id === candidate.id;
    dot.setAttribute("aria-selected", String(chosen));
    dot.setAttribute("tabindex", chosen ? 0 : -1);
  }
  at("reading").replaceChildren(card(prompt, candidate));
}

function textBox(text) {
  if (text === null || text === undefined) return h("p", { class: "none" }, "No text.");
  if (text === "") return h("p", { class: "none" }, "The text is empty.");
  return h("p", { class: "text", dir: "auto", tabindex: 0 }, text);
}

function card(prompt, candidate) {
  const picks = picksOf(prompt, candidate.id);
  const kind = picks.length ? role(picks[0]) : "";
  const rows = [["id", candidate.id], ["score", number(candidate.score)], ["z", signed(candidate.z)],
    ["finish", candidate.finish_reason === "length" ? "length (cut off)" : candidate.finish_reason ?? "–"],
    ["tokens", number(candidate.n_tokens)], ...Object.entries(candidate.parts).map(([name, value]) => [name, number(value)])];
  if (candidate.reason) rows.push(["reason", candidate.reason]);
  const title = picks.length ? `${SHAPES[kind]} ${namesOf(picks)}` : `candidate ${candidate.id}`;
  return h("div", { class: `card ${kind}` }, h("h4", {}, title),
    h("dl", { class: "facts" }, ...rows.map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, value)))),
    textBox(candidate.text));
}

function sideBySide(prompt) {
  const ids = [...new Set(prompt.picks.map((pick) => pick.id))];
  const found = ids.map((id) => prompt.candidates.find((c) => c.id === id)).filter(Boolean);
  if (!found.length) return h("p", { class: "none" }, `No rule picked a candidate here (${prompt.outcome}).`);
  return h("div", { class: "texts" }, ...found.map((candidate) => card(prompt, candidate)));
}

function allCandidates(prompt, open) {
  const parts = [...new Set(prompt.candidates.flatMap((c) => Object.keys(c.parts)))];
  const order = [...prompt.candidates].sort((a, b) => (b.score ?? -Infinity) - (a.score ?? -Infinity) || 0);
  const numeric = (text, name = "td") => h(name, name === "th" ? { class: "n", scope: "col" } : { class: "n" }, text);
  const head = h("tr", {}, h("th", { scope: "col" }, "id"), numeric("score", "th"), numeric("z", "th"), ...parts.map((p) => numeric(p, "th")),
    numeric("tokens", "th"), ...["finish", "picked as", "reason", "text"].map((name) => h("th", { scope: "col" }, name)));
  const rows = order.map((c) => {
    const button = h("button", { type: "button", title: "Read this one above" }, c.id);
    button.addEventListener("click", () => { read(prompt, c); at("reading").scrollIntoView({ block: "nearest" }); });
    return h("tr", {}, h("th", { scope: "row" }, button), numeric(number(c.score)), numeric(signed(c.z)),
      ...parts.map((p) => numeric(number(c.parts[p]))), numeric(number(c.n_tokens)), h("td", {}, c.finish_reason ?? "–"),
      h("td", {}, namesOf(picksOf(prompt, c.id)) || "–"), h("td", {}, c.reason ?? "–"), h("td", {}, textBox(c.text)));
  });
  const scroll = { class: "scroll", tabindex: 0, role: "region", "aria-label": "All candidates of this prompt" };
  return h("details", { open: open ? "" : null }, h("summary", {}, `All ${number(order.length)} candidates of this prompt as a table`),
    h("div", scroll, h("table", {}, h("thead", {}, head), h("tbody", {}, ...rows))));
}

// Choosing a prompt

function asked(prompt) {
  const users = prompt.messages.filter((m) => m.role === "user");
  return (users.length ? users[users.length - 1].content : "").replace(/\s+/g, " ").trim();
}

function draw() {
  const prompt = prompts[shown];
  const numbers = [["prompt", prompt.prompt_id], ["outcome", prompt.outcome], ["n", number(prompt.n)], ["mean", number(prompt.mean)],
    ["sd", number(prompt.sd)], ["skewness", signed(prompt.skewness)]];
  const unscored = prompt.candidates.filter((c) => c.score === null).length;
  const plot = h("div", { id: "strip" });
  const open = document.querySelector("#prompt details")?.open;
  at("prompt").replaceChildren(
    h("div", { class: "messages" }, ...prompt.messages.map((m) => h("div", {}, h("p", { class: "role" }, m.role), textBox(m.content)))),
    h("dl", { class: "facts" }, ...numbers.map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, value)))),
    h("h3", {}, "Candidates on the score line"), plot,
    h("p", { class: "note" }, (prompt.sd === 0 ? "All scores are equal: sd is 0 and there is no position below the mean. " : "")
      + (unscored ? `Not on the line, for want of a score: ${unscored}. ` : "")
      + (prompt.candidates.some((c) => c.score !== null && c.reason) ? "Dashed: scored, but took no part. " : "")
      + "A click or the arrow keys on the dots show the text of a candidate."),
    h("div", { id: "reading", "aria-live": "polite" }),
    h("h3", {}, "What the rules picked"), sideBySide(prompt), allCandidates(prompt, open));
  drawStrip();
}

function drawStrip() {
  const plot = at("strip");
  const width = Math.max(240, Math.round(plot.clientWidth));
  if (plot.dataset.width === String(width)) return;
  plot.dataset.width = width;
  plot.replaceChildren(strip(prompts[shown], width));
}

function show(i) {
  shown = i;
  const place = matching.indexOf(i);
  at("choice").value = String(i);
  at("previous").disabled = place <= 0;
  at("next").disabled = place < 0 || place >= matching.length - 1;
  const total = prompts.length === matching.length ? "" : `, ${number(prompts.length)} in all`;
  at("position").textContent = matching.length ? `${number(place + 1)} of ${number(matching.length)}${total}` : "no prompt matches";
  draw();
}

function step(by) {
  show(matching[matching.indexOf(shown) + by]);
  history.replaceState(null, "", `#${new URLSearchParams({ prompt: prompts[shown].prompt_id })}`);
}

function search() {
  const words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const hay = (p) => [p.prompt_id, p.outcome, ...p.messages.map((m) => m.content)].join(" ").toLowerCase();
  matching = prompts.map((_, i) => i).filter((i) => !words.length || words.every((word) => hay(prompts[i]).includes(word)));
  at("choice").replaceChildren(...matching.map((i) => {
    const mark = prompts[i].outcome === "pair" ? "" : ` (${prompts[i].outcome})`;
    return h("option", { value: i }, `${i + 1}. ${asked(prompts[i]).slice(0, 90)}${mark}`);
  }));
  show(matching.includes(shown) || !matching.length ? shown : matching[0]);
}

function fromAddress() {
  const id = new URLSearchParams(location.hash.slice(1)).get("prompt");
  const i = prompts.findIndex((prompt) => prompt.prompt_id === id);
  if (i >= 0) { at("search").value = ""; shown = i; search(); }
}

if (prompts.length) {
  at("browser").hidden = false;
  search();
  fromAddress();
  at("search").addEventListener("input", search);
  at("choice").addEventListener("change", () => { show(Number(at("choice").value)); step(0); });
  at("previous").addEventListener("click", () => step(-1));
  at("next").addEventListener("click", () => step(1));
  addEventListener("hashchange", fromAddress);
  new ResizeObserver(() => requestAnimationFrame(drawStrip)).observe(at("prompt"));
}
document.documentElement.dataset.ready = "yes";
