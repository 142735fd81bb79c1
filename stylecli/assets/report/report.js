"use strict";
(() => {
  const PER_PAGE = 60;
  const METRIC = "metric:"; // apart from the other orders, as a metric may be called "name"
  const SEARCH_ROLES = { content: "--content", style: "--style", lora: "--style", mask: "--content" };
  const byId = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(byId(id).textContent);
  const page = read("data");
  const byName = new Intl.Collator("en", { numeric: true }).compare;
  let items = [];
  let pictures = [];
  let shown = [];
  let at = 0; // the page of the list
  let current = null; // what the detail view shows
  const wish = { words: [], status: "", command: "", style: "", folder: "", sort: "name", down: false };

  // Text goes in as text only: names of files come from anywhere.
  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (value === null || value === undefined) continue;
      if (name === "class") element.className = value;
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  function thumbnail(index) {
    const found = index === null || index === undefined ? null : pictures[index];
    if (!found || !found[0]) return null;
    return page.beside ? page.beside + found[0] : found[0];
  }

  function image(index, properties, large = false) {
    const small = thumbnail(index);
    const full = large ? pictures[index][1] : null;
    const element = make("img", { src: full || small, decoding: "async", draggable: "false", ...properties });
    // The file may have gone since, or be of a kind that no browser shows.
    if (full) element.addEventListener("error", () => { element.src = small; }, { once: true });
    return element;
  }

  const content = (item) => item.inputs.find((one) => one.role === "content");
  const styles = (item) => item.inputs.filter((one) => one.role === "style" || one.role === "lora");
  const number = (value) => Number(value.toPrecision(4)).toString();

  function took(seconds) {
    if (seconds === null) return "";
    if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
    const whole = Math.round(seconds);
    const minutes = Math.floor(whole / 60);
    const two = (count) => String(count).padStart(2, "0");
    if (minutes < 1) return `${whole} s`;
    if (minutes < 60) return `${minutes} min ${two(whole % 60)} s`;
    return `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
  }

  /* One item: its picture, and a slider over it where there is a before and an after. */

  function frame(item, large) {
    const source = content(item);
    const before = source ? thumbnail(source.picture) : null;
    if (item.status === "failed") return told(item.error.what, item.error.fix, "Failed");
    if (item.status === "missing") return told("The journal says that it was made; the file is gone.", "", "Missing");
    if (!thumbnail(item.picture)) {
      const kind = /\.[^./]+$/.exec(item.name);
      const about = item.trigger ? `Called by “${item.trigger}”` : "Not a picture, or none that can be read.";
      const box = told(about, "", kind ? kind[0].slice(1) : item.name);
      box.classList.remove("is-bad");
      return box;
    }
    const result = image(item.picture, { class: "result", alt: `Result ${item.name}` }, large);
    const fit = (box) => {
      // The slider's ends are the picture's edges once its size is known.
      result.addEventListener("load", () => box.style.setProperty("--ratio", result.naturalWidth / result.naturalHeight));
      return box;
    };
    if (!before || !item.compares) return fit(make("div", { class: "frame" }, result));
    const slider = make("input", {
      type: "range", min: 0, max: 100, step: 1, value: large ? 50 : 0,
      "aria-label": `Uncover the content under ${item.name}`,
    });
    const box = make("div", { class: "frame" },
      image(source.picture, { class: "content", alt: `Content ${source.name}` }, large),
      result, make("span", { class: "handle", "aria-hidden": "true" }), slider);
    const cut = () => {
      box.style.setProperty("--cut", `${slider.value}%`);
      box.classList.toggle("is-split", slider.value > 0);
      slider.setAttribute("aria-valuetext", `${slider.value} % content`);
    };
    slider.addEventListener("input", cut);
    cut();
    return fit(box);
  }

  function told(what, fix, title) {
    return make("div", { class: "frame is-bad" }, make("div", { class: "told" },
      make("b", {}, title), make("p", {}, what), fix ? make("p", { class: "fix" }, fix) : null));
  }

  function mini(one) {
    const called = one.trigger ? ` “${one.trigger}”` : "";
    const label = `${one.role === "lora" ? "LoRA" : one.role[0].toUpperCase() + one.role.slice(1)} ${one.name}${called}`;
    if (thumbnail(one.picture)) return image(one.picture, { class: "mini", alt: label, title: label });
    if (one.role === "lora") return make("span", { class: "mini word", title: label }, "LoRA");
    if (one.role === "prompt") return make("span", { class: "mini word", title: label }, "words");
    return make("span", { class: "mini lost", role: "img", "aria-label": `${label}, not found`, title: lost(one, label) }, "?");
  }

  const lost = (one, label) => one.picture === undefined
    ? `${label} was not found; give its place with ${SEARCH_ROLES[one.role]}`
    : `${label} cannot be read`;

  function card(item) {
    const box = frame(item, false);
    box.addEventListener("dblclick", () => open(item));
    const looks = styles(item).map((one) => one.name).join(", ");
    const name = metric();
    const figure = name && Object.hasOwn(item.metrics, name) ? `${name} ${number(item.metrics[name])}` : "";
    const meta = [looks, figure || took(item.seconds)].filter(Boolean).join(" · ");
    return make("article", { class: "card", "data-item": item.index }, box,
      make("div", { class: "card-foot" },
        make("div", { class: "minis" }, ...item.inputs.slice(0, 3).map(mini)),
        make("div", { class: "words" },
          make("button", { type: "button", class: "open", title: item.name, "aria-haspopup": "dialog", onclick: () => open(item) }, item.name),
          make("p", { class: "meta", title: meta }, meta))));
  }

  /* The list: filter, sort, a page of it. */

  function prepare() {
    items.forEach((item, index) => {
      item.index = index;
      item.look = styles(item).map((one) => one.name).join(", ");
      const said = item.inputs.flatMap((one) => [one.name, one.trigger || ""]);
      const error = item.error ? [item.error.code, item.error.what, item.error.fix] : [];
      item.text = [item.name, item.command, page.folders[item.folder], ...said, ...error].join("\n").toLowerCase();
    });
    [...items].sort((a, b) => byName(a.name, b.name) || a.index - b.index).forEach((item, rank) => { item.rank = rank; });
  }

  const metric = () => wish.sort.startsWith(METRIC) ? wish.sort.slice(METRIC.length) : null;

  function value(item) {
    switch (wish.sort) {
      case "name": return item.rank;
      case "time": return item.finished || null;
      case "took": return item.seconds;
      default: return item.metrics[metric()] ?? null;
    }
  }

  function list() {
    const wanted = (item) =>
      (!wish.status || item.status === wish.status) && (!wish.command || item.command === wish.command)
      && (!wish.style || item.look === wish.style) && (!wish.folder || page.folders[item.folder] === wish.folder)
      && wish.words.every((word) => item.text.includes(word));
    const keyed = items.filter(wanted).map((item) => [value(item), item]);
    const sign = wish.down ? -1 : 1;
    keyed.sort(([a, one], [b, other]) => {
      // What has no figure comes last in both orders.
      if (a === null || b === null) return (a === null) - (b === null) || one.rank - other.rank;
      return a < b ? -sign : a > b ? sign : one.rank - other.rank;
    });
    shown = keyed.map(([, item]) => item);
    at = 0;
    draw();
  }

  function draw() {
    const some = shown.slice(at * PER_PAGE, (at + 1) * PER_PAGE);
    const none = make("p", { class: "none" }, "Nothing fits.", make("button", { type: "button", onclick: forget }, "Show all"));
    byId("items").replaceChildren(...(some.length ? some.map(card) : [none]));
    byId("shown").textContent = shown.length === items.length
      ? `${items.length.toLocaleString("en")} items`
      : `${shown.length.toLocaleString("en")} of ${items.length.toLocaleString("en")}`;
    drawPager();
  }

  function drawPager() {
    const pages = Math.ceil(shown.length / PER_PAGE);
    const go = (to) => { at = to; draw(); byId("items").focus({ preventScroll: true }); byId("items").scrollIntoView(); };
    const button = (text, label, to, off) => {
      const made = make("button", { type: "button", class: "quiet", "aria-label": label, onclick: () => go(to) }, text);
      made.disabled = off;
      return made;
    };
    byId("pager").hidden = pages < 2;
    byId("pager").replaceChildren(
      button("«", "First page", 0, at === 0), button("‹ Back", "Page before", at - 1, at === 0),
      make("span", {}, `Page ${at + 1} of ${pages}`),
      button("Next ›", "Next page", at + 1, at >= pages - 1), button("»", "Last page", pages - 1, at >= pages - 1));
  }

  /* What to show: chips, menus, search. */

  function forget() {
    Object.assign(wish, { words: [], status: "", command: "", style: "", folder: "" });
    byId("search").value = "";
    for (const id of ["command", "style", "folder"]) byId(id).value = "";
    press();
    list();
  }

  function press() {
    for (const chip of byId("status").children) chip.setAttribute("aria-pressed", String(chip.value === wish.status));
  }

  function chips() {
    const counts = new Map([["", items.length]]);
    for (const item of items) counts.set(item.status, (counts.get(item.status) || 0) + 1);
    const names = ["", "done", "failed", "missing"].filter((name) => counts.has(name));
    byId("status").hidden = names.length < 3;
    byId("status").replaceChildren(...names.map((name) => make("button",
      { type: "button", value: name, onclick: () => { wish.status = name; press(); list(); } },
      name ? name[0].toUpperCase() + name.slice(1) : "All", make("small", {}, counts.get(name).toLocaleString("en")))));
    press();
  }

  function menu(id, values, all) {
    const distinct = [...new Set(values)].filter(Boolean).sort(byName);
    const select = byId(id);
    select.parentElement.hidden = distinct.length < 2;
    select.replaceChildren(make("option", { value: "" }, all), ...distinct.map((one) => make("option", { value: one }, one)));
    select.addEventListener("change", () => { wish[id] = select.value; list(); });
  }

  function orders() {
    const metrics = Object.keys(page.better);
    const names = [["name", "Name"], ["time", "Time"], ["took", "Time taken"], ...metrics.map((name) => [METRIC + name, name])];
    byId("sort").replaceChildren(...names.map(([name, text]) => make("option", { value: name }, text)));
    const order = byId("order");
    const say = () => {
      order.setAttribute("aria-pressed", String(wish.down));
      order.textContent = wish.down ? "Descending" : "Ascending";
    };
    byId("sort").addEventListener("change", (event) => {
      wish.sort = event.target.value;
      wish.down = page.better[metric()] === "higher"; // the best first
      say();
      list();
    });
    order.addEventListener("click", () => { wish.down = !wish.down; say(); list(); });
    say();
  }

  /* One item over the whole screen. */

  function open(item) {
    current = item;
    const place = shown.indexOf(item);
    byId("detail-title").textContent = item.name;
    byId("detail-place").textContent = `${(place + 1).toLocaleString("en")} of ${shown.length.toLocaleString("en")}`;
    byId("before").disabled = place <= 0;
    byId("after").disabled = place >= shown.length - 1;
    const box = frame(item, true);
    const sides = box.querySelector("input")
      ? make("p", { class: "sides", "aria-hidden": "true" }, make("span", {}, "content"), make("span", {}, "result")) : null;
    byId("detail-body").replaceChildren(make("div", { class: "large" }, make("div", { class: "stage" }, box), sides), facts(item));
    if (!byId("detail").open) {
      byId("detail").showModal();
      document.documentElement.style.overflow = "hidden";
    }
    // Off the slider, whose arrows are its own.
    byId("detail-title").focus();
  }

  function step(by) {
    const next = shown[shown.indexOf(current) + by];
    if (next) open(next);
  }

  function closed() {
    document.documentElement.style.overflow = "";
    const place = Math.max(0, shown.indexOf(current));
    if (Math.floor(place / PER_PAGE) !== at) { at = Math.floor(place / PER_PAGE); draw(); }
    const back = document.querySelector(`[data-item="${current.index}"] .open`);
    current = null;
    if (back) back.focus();
  }

  function facts(item) {
    const own = item.settings === null || item.settings === undefined ? {} : page.settings[item.settings];
    return make("aside", { class: "facts", "aria-label": "About this item" },
      item.inputs.length ? make("section", { class: "fed" }, ...item.inputs.map(fed)) : null,
      pairs("Figures", Object.entries(item.metrics).map(([name, one]) => [name, number(one), page.better[name] ? `${page.better[name]} is better` : null])),
      pairs("Settings of its own", Object.entries(own).sort()),
      pairs("About", [
        ["command", item.command], ["finished", item.finished && `${item.finished.replace("T", " ")} UTC`], ["took", took(item.seconds)],
        ["seed", item.seed], ["folder", page.folders.length > 1 ? page.folders[item.folder] : null],
      ].filter(([, one]) => one)),
      item.file ? make("p", {}, make("a", { href: item.file, target: "_blank", rel: "noopener" }, "Open the file")) : null);
  }

  function fed(one) {
    const role = { lora: "LoRA" }[one.role] || one.role;
    const gone = one.role !== "prompt" && one.role !== "lora" && !thumbnail(one.picture);
    return make("div", {}, mini(one), make("div", {}, make("p", { class: "faint" }, role), make("p", {}, one.name),
      one.trigger ? make("p", { class: "faint" }, `“${one.trigger}”`) : null,
      gone ? make("p", { class: "faint" }, one.picture === undefined ? `not found; give ${SEARCH_ROLES[one.role]}` : "cannot be read") : null));
  }

  function pairs(title, rows) {
    if (!rows.length) return null;
    return make("section", {}, make("h3", {}, title), make("dl", { class: "pairs" },
      ...rows.map(([name, one, hint]) => make("div", {}, make("dt", {}, name), make("dd", { title: hint }, one)))));
  }

  /* Keys, colours, beginnings. */

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const types = event.target.matches("input, select, textarea");
    if (byId("detail").open) {
      if (types) return;
      if (event.key === "ArrowLeft") step(-1);
      else if (event.key === "ArrowRight") step(1);
      else return;
      event.preventDefault();
    } else if (event.key === "/" && !event.target.matches("input[type=search], select")) {
      event.preventDefault();
      byId("search").focus();
    } else if (event.key === "Escape" && event.target === byId("search")) {
      byId("search").value = "";
      byId("search").dispatchEvent(new Event("input"));
    }
  });

  function themes() {
    const names = ["system", "light", "dark"];
    const button = byId("theme");
    const remembered = () => { try { return localStorage.getItem("style-report-theme"); } catch { return null; } };
    const apply = (name) => {
      document.documentElement.dataset.theme = name;
      button.textContent = `◐ ${name}`;
      button.setAttribute("aria-label", `Theme: ${name}`);
      try { localStorage.setItem("style-report-theme", name); } catch { /* a private window */ }
    };
    button.addEventListener("click", () => {
      apply(names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]);
    });
    button.hidden = false;
    apply(names.includes(remembered()) ? remembered() : "system");
  }

  function begin() {
    prepare();
    chips();
    menu("command", items.map((item) => item.command), "All commands");
    menu("style", items.map((item) => item.look), "All styles");
    menu("folder", page.folders, "All folders");
    orders();
    byId("search").addEventListener("input", (event) => {
      wish.words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
      list();
    });
    byId("bar").addEventListener("submit", (event) => event.preventDefault());
    byId("bar").hidden = false;
    const failed = byId("only-failed");
    if (failed) {
      failed.hidden = false;
      failed.addEventListener("click", () => { forget(); wish.status = "failed"; press(); list(); byId("items").scrollIntoView(); });
    }
    byId("before").addEventListener("click", () => step(-1));
    byId("after").addEventListener("click", () => step(1));
    byId("close").addEventListener("click", () => byId("detail").close());
    byId("detail").addEventListener("close", closed);
    addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("details")) one.open = true; });
    list();
  }

  function load(names) {
    if (!names.length) {
      for (const chunk of [...(self.styleReport || [])].sort((a, b) => a.at - b.at)) {
        items.push(...chunk.items);
        pictures.push(...chunk.pictures);
      }
      begin();
      return;
    }
    const script = make("script", { src: page.beside + names[0] });
    script.addEventListener("load", () => load(names.slice(1)));
    script.addEventListener("error", () => {
      const folder = decodeURIComponent(page.beside).slice(2);
      byId("items").replaceChildren(make("p", { class: "none" }, `The folder ${folder} belongs beside this page; something in it is missing.`));
    });
    document.head.append(script);
  }

  themes();
  if (page.sources) load(page.sources);
  else {
    items = read("item-data");
    pictures = read("picture-data");
    begin();
  }
})();
