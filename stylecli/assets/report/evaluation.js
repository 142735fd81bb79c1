"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(byId(id).textContent);
  const page = read("data");
  const pictures = read("picture-data");
  const SVG = "http://www.w3.org/2000/svg";
  const SIDE = 420;
  const EDGE = 34;
  const KINDS = { best: "Best", middle: "In the middle", worst: "Worst" };
  const number = (value) => Number(value.toPrecision(4)).toString();

  // Text goes in as text only: names of files and methods come from anywhere.
  function make(tag, properties = {}, ...children) {
    const element = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (value === null || value === undefined) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  function picture(index, alt) {
    const source = index === null || index === undefined ? null : pictures[index];
    if (!source) return make("span", { class: "mini lost" }, "not found");
    return make("img", { class: "mini", src: source, alt, decoding: "async" });
  }

  function look(item, metric, asked) {
    const styles = item.styles.length ? item.styles : [null];
    const style = make("div", { class: styles.length > 1 ? "several" : "" }, ...styles.map((one) => picture(one, "Style")));
    const outputs = page.methods.filter((method) => item.outputs[method]).map((method) => {
      const value = (item.values[method] || {})[metric];
      const reason = (item.reasons[method] || {})[metric];
      const said = value === undefined ? reason || "no value" : number(value);
      return make("figure", { class: method === asked ? "asked" : null },
        picture(item.outputs[method].picture, `${method}: ${item.outputs[method].name}`),
        make("figcaption", {}, `${method} ${said}`));
    });
    return make("article", { class: "look" },
      make("p", { class: "id" }, item.id),
      make("figure", {}, picture(item.content, "Content"), make("figcaption", {}, "content")),
      make("figure", {}, style, make("figcaption", {}, item.styles.length > 1 ? "styles" : "style")),
      ...outputs);
  }

  function options(select, pairs) {
    select.replaceChildren(...pairs.map(([value, text]) => make("option", { value }, text)));
  }

  /* Best and worst. */

  const metrics = page.metrics.map((one) => one.name);

  function showLooks() {
    const metric = byId("metric").value;
    const by = byId("by").value;
    const parts = [];
    const add = (title, some, asked) => {
      if (!some || !some.length) return;
      parts.push(make("h3", { class: "kind" }, title), ...some.map((at) => look(page.items[at], metric, asked)));
    };
    if (by === "pair:") {
      const [first, second] = page.compared;
      const pair = page.pairs[metric] || {};
      add(`Where ${first} is ahead of ${second} by most`, pair.first, first);
      add(`Where ${second} is ahead of ${first} by most`, pair.second, second);
    } else {
      const method = by.slice("method:".length);
      const found = (page.picks[metric] || {})[method] || {};
      for (const [kind, title] of Object.entries(KINDS)) add(title, found[kind], method);
    }
    if (!parts.length) parts.push(make("p", { class: "hint" }, "No item has a value of this metric."));
    byId("items").replaceChildren(...parts);
  }

  function startLooks() {
    if (!byId("looks") || !metrics.length) return;
    options(byId("metric"), metrics.map((name) => [name, name]));
    const by = page.methods.map((name) => [`method:${name}`, name]);
    if (page.compared.length === 2 && Object.keys(page.pairs).length) by.push(["pair:", "difference"]);
    options(byId("by"), by);
    byId("looks-bar").hidden = false;
    for (const id of ["metric", "by"]) byId(id).addEventListener("change", showLooks);
    showLooks();
  }

  /* One method against another. */

  function showPlot() {
    const metric = byId("plot-metric").value;
    const [x, y] = [byId("plot-x").value, byId("plot-y").value];
    const values = page.points.values[metric] || {};
    const [across, up] = [values[x] || [], values[y] || []];
    const dots = page.points.ids.map((id, at) => ({ id, at, x: across[at], y: up[at] }))
      .filter((dot) => typeof dot.x === "number" && typeof dot.y === "number");
    const all = dots.flatMap((dot) => [dot.x, dot.y]);
    let [low, high] = all.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
    if (!all.length) [low, high] = [0, 1];
    const room = (high - low) * 0.05 || 1;
    const place = (value) => EDGE + ((value - low + room) / (high - low + 2 * room)) * (SIDE - EDGE - 8);
    const higher = page.metrics.find((one) => one.name === metric).better === "higher";
    const line = (name, x1, y1, x2, y2) => make("svg:line", { class: name, x1, y1: SIDE - y1, x2, y2: SIDE - y2 });
    const text = (said, tx, ty, extra = {}) => make("svg:text", { x: tx, y: ty, ...extra }, said);
    const far = SIDE - 8;
    const parts = [
      line("axis", EDGE, EDGE, far, EDGE), line("axis", EDGE, EDGE, EDGE, far), line("equal", EDGE, EDGE, far, far),
      text(`${x} →`, (EDGE + far) / 2, SIDE - 8, { "text-anchor": "middle" }),
      text(`${y} →`, 0, 0, { transform: `translate(14 ${SIDE / 2}) rotate(-90)`, "text-anchor": "middle" }),
      text(number(low), EDGE, SIDE - 8), text(number(high), far, SIDE - 8, { "text-anchor": "end" }),
    ];
    let [wins, ties] = [0, 0];
    for (const dot of dots) {
      const isUp = higher ? dot.y > dot.x : dot.y < dot.x;
      if (dot.x === dot.y) ties += 1;
      else if (isUp) wins += 1;
      const opens = page.points.items[dot.at] !== null && page.points.items[dot.at] !== undefined;
      const circle = make("svg:circle", {
        cx: place(dot.x), cy: SIDE - place(dot.y), r: opens ? 4.5 : 3.5,
        class: `${isUp ? "up" : ""} ${opens ? "opens" : ""}`.trim() || null,
        onclick: () => chosen(circle, dot, metric, isUp ? y : x),
      }, make("svg:title", {}, `${dot.id}\n${x} ${number(dot.x)}, ${y} ${number(dot.y)}`));
      parts.push(circle);
    }
    byId("dots").replaceChildren(...parts);
    const share = dots.length ? ` ${y} is better on ${wins}, ${x} on ${dots.length - wins - ties}` : "";
    const some = page.points.ids.length && dots.length < page.points.ids.length ? ` (${dots.length} with both values)` : "";
    byId("plot-said").textContent = `${dots.length} items:${share}${ties ? `, equal on ${ties}` : ""}${some}`;
    byId("dot-item").replaceChildren(make("p", { class: "hint" }, "Darker points can be opened: choose one."));
  }

  function chosen(circle, dot, metric, ahead) {
    for (const other of byId("dots").querySelectorAll(".chosen")) other.classList.remove("chosen");
    circle.classList.add("chosen");
    const at = page.points.items[dot.at];
    const shown = at === null || at === undefined
      ? make("p", { class: "hint" }, `${dot.id}: ${number(dot.x)} across, ${number(dot.y)} up; its pictures are not in this page.`)
      : look(page.items[at], metric, ahead);
    byId("dot-item").replaceChildren(shown);
  }

  function startPlot() {
    if (!byId("plot") || page.methods.length < 2 || !metrics.length) return;
    options(byId("plot-metric"), metrics.map((name) => [name, name]));
    for (const id of ["plot-x", "plot-y"]) options(byId(id), page.methods.map((name) => [name, name]));
    const [first, second] = page.compared.filter((name) => page.methods.includes(name)).length === 2
      ? page.compared : page.methods;
    byId("plot-x").value = second;
    byId("plot-y").value = first;
    for (const id of ["plot-metric", "plot-x", "plot-y"]) byId(id).addEventListener("change", showPlot);
    byId("plot").hidden = false;
    showPlot();
  }

  function startTheme() {
    const button = byId("theme");
    const root = document.documentElement;
    const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
    const say = () => { button.textContent = isDark() ? "Light" : "Dark"; };
    button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; say(); });
    button.hidden = false;
    say();
  }

  startTheme();
  startPlot();
  startLooks();
})();
