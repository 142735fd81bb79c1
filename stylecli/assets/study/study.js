"use strict";
(() => {
  const AGAIN = "-again";
  const TIE = "tie";
  const COLUMNS = ["study", "rater", "item", "question", "choice", "order", "shown_ms"];
  const TICK_MS = 500;
  const byId = (id) => document.getElementById(id);
  const page = JSON.parse(byId("data").textContent);
  const pictures = JSON.parse(byId("pictures").textContent);
  const items = new Map([...page.items, ...page.copies].map((item) => [item.id, item]));
  const choices = [["A", "A"], ["B", "B"], ...(page.ties ? [[TIE, "No difference"]] : [])];
  const keys = { a: "A", b: "B", 1: "A", 2: "B", ...(page.ties ? { n: TIE, 3: TIE } : {}) };

  /* BLAKE2b (RFC 7693), no key, sixteen bytes: a page on a disk may have no hash of the browser's. */

  const MASK = (1n << 64n) - 1n;
  const START = [
    0x6a09e667f3bcc908n, 0xbb67ae8584caa73bn, 0x3c6ef372fe94f82bn, 0xa54ff53a5f1d36f1n,
    0x510e527fade682d1n, 0x9b05688c2b3e6c1fn, 0x1f83d9abfb41bd6bn, 0x5be0cd19137e2179n,
  ];
  const ROUNDS = [
    "0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8",
    "905724afe1bc683d", "2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a",
    "6fe9b308c2d714a5", "a2847615fb9e3cd0", "0123456789abcdef", "ea489fd61c02b753",
  ].map((row) => [...row].map((digit) => parseInt(digit, 16)));
  const MIXED = [
    [0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15],
    [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14],
  ];
  const turned = (word, by) => ((word >> by) | (word << (64n - by))) & MASK;

  function compress(state, block, length, isLast) {
    const m = Array.from({ length: 16 }, (_, at) => block.getBigUint64(8 * at, true));
    const v = [...state, ...START];
    v[12] ^= length;
    if (isLast) v[14] ^= MASK;
    for (const row of ROUNDS) {
      MIXED.forEach(([a, b, c, d], at) => {
        v[a] = (v[a] + v[b] + m[row[2 * at]]) & MASK;
        v[d] = turned(v[d] ^ v[a], 32n);
        v[c] = (v[c] + v[d]) & MASK;
        v[b] = turned(v[b] ^ v[c], 24n);
        v[a] = (v[a] + v[b] + m[row[2 * at + 1]]) & MASK;
        v[d] = turned(v[d] ^ v[a], 16n);
        v[c] = (v[c] + v[d]) & MASK;
        v[b] = turned(v[b] ^ v[c], 63n);
      });
    }
    return state.map((word, at) => word ^ v[at] ^ v[at + 8]);
  }

  function digest(...words) {
    const bytes = new TextEncoder().encode(words.join("\n"));
    const padded = new Uint8Array(Math.max(1, Math.ceil(bytes.length / 128)) * 128);
    padded.set(bytes);
    let state = [START[0] ^ 0x01010010n, ...START.slice(1)];
    for (let at = 0; at < padded.length; at += 128) {
      const isLast = at + 128 === padded.length;
      const length = BigInt(isLast ? bytes.length : at + 128);
      state = compress(state, new DataView(padded.buffer, at, 128), length, isLast);
    }
    const hex = new DataView(new ArrayBuffer(16));
    hex.setBigUint64(0, state[0], true);
    hex.setBigUint64(8, state[1], true);
    return Array.from({ length: 16 }, (_, at) => hex.getUint8(at).toString(16).padStart(2, "0")).join("");
  }

  /* Who sees what, where: the same as `engine/study/design.py`, which the tally goes by. */

  function places(rater) {
    const of = (item) => digest(String(page.seed), rater, item);
    const ranked = (ids, key) => ids.map((id) => [key(id), id]).sort((a, b) => (a[0] < b[0] ? -1 : 1)).map((pair) => pair[1]);
    const [again, copied] = page.checks;
    const turn = /^[0-9]{1,9}$/.test(rater) ? Math.max(0, Number(rater) - 1) : parseInt(of("").slice(0, 8), 16);
    const start = (turn * page.perRater) % page.items.length;
    const own = Array.from({ length: page.perRater }, (_, at) => page.items[(start + at) % page.items.length].id);
    const copies = ranked(page.copies.map((item) => item.id), of).slice(0, copied);
    const order = ranked([...own, ...copies], of);
    const swapped = new Map(order.map((id) => [id, parseInt(of(id).slice(-1), 16) % 2 === 1]));
    for (const id of ranked(own, (one) => of(one + AGAIN)).slice(0, again)) {
      const half = Math.floor(order.length / 2) + 1;
      order.splice((order.indexOf(id) + half) % (order.length + 1), 0, id + AGAIN);
      swapped.set(id + AGAIN, !swapped.get(id));
    }
    return order.map((id) => ({ id, item: items.get(id.replace(AGAIN, "")), isSwapped: swapped.get(id) }));
  }

  /* What the browser keeps. */

  const store = {
    get(key) { try { return localStorage.getItem(`style-study/${page.study}/${key}`); } catch { return null; } },
    set(key, value) {
      try {
        localStorage.setItem(`style-study/${page.study}/${key}`, value);
        return true;
      } catch { return false; }
    },
  };
  let rater = "";
  let order = [];
  let kept = { at: 0, answers: {}, ms: {} };
  let since = null; // when the item came into sight, or was last counted

  function keep() {
    count();
    byId("forgets").hidden = store.set(`rater/${rater}`, JSON.stringify(kept));
  }

  // Only time in which the item is in sight; of what is on a hidden tab nobody thinks.
  function count() {
    const now = performance.now();
    const place = order[kept.at];
    if (since !== null && place) kept.ms[place.id] = (kept.ms[place.id] || 0) + now - since;
    since = document.hidden || !place ? null : now;
  }

  /* Showing. Texts go in as text only. */

  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name === "class") element.className = value;
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  function figure(name, caption) {
    const image = make("img", { src: pictures[name], alt: caption, draggable: "false" });
    const frame = make("button", { type: "button", class: "picture", "aria-label": `${caption}, larger`, tabindex: "-1" }, image);
    image.addEventListener("load", () => frame.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight));
    frame.addEventListener("click", () => {
      byId("shut").replaceChildren(make("img", { src: image.src, alt: caption }));
      byId("large").showModal();
    });
    return make("figure", {}, frame, make("figcaption", {}, caption));
  }

  function asked(question, id) {
    const answers = kept.answers[id] || {};
    const radios = choices.map(([value, text]) => {
      // A radio called "style" would stand for the style of its form.
      const radio = make("input", { type: "radio", name: `answer-${question.key}`, value, "aria-label": text });
      radio.checked = answers[question.key] === value;
      radio.addEventListener("change", () => answer(question.key, value));
      return make("label", {}, radio, make("span", { "aria-hidden": "true" }, text));
    });
    const label = `question-${question.key}`;
    return make(
      "div", { class: "question", role: "radiogroup", "aria-labelledby": label, "data-key": question.key },
      make("p", { id: label }, question.text), make("div", { class: "choices" }, ...radios),
    );
  }

  function answer(key, value) {
    const { id } = order[kept.at];
    kept.answers[id] = { ...kept.answers[id], [key]: value };
    document.querySelector(`.question[data-key="${key}"]`).classList.remove("is-open");
    byId("missing").hidden = true;
    keep();
  }

  const open = (place) => page.questions.filter((question) => !(kept.answers[place.id] || {})[question.key]);

  function show() {
    count();
    const place = order[kept.at];
    byId("intro").hidden = true;
    byId("trial").hidden = !place;
    byId("end").hidden = Boolean(place);
    byId("who").hidden = byId("steps").hidden = false;
    byId("rater").textContent = rater;
    byId("bar").value = order.filter((one) => !open(one).length).length;
    byId("place").textContent = place ? `${kept.at + 1} of ${order.length}` : "Done";
    if (!place) {
      byId("text").value = votes();
      byId("end-title").focus();
      return;
    }
    const { item, isSwapped } = place;
    const [a, b] = isSwapped ? [item.second, item.first] : [item.first, item.second];
    const references = item.references.map((name, at) => figure(name, item.references.length > 1 ? `Style ${at + 1}` : "Style"));
    byId("given").replaceChildren(...(item.content ? [figure(item.content, "Content")] : []), ...references);
    byId("two").replaceChildren(figure(a, "A"), figure(b, "B"));
    byId("asked").replaceChildren(...page.questions.map((question) => asked(question, place.id)));
    byId("asked").parentElement.style.setProperty("--asked", page.questions.length);
    byId("trial-title").textContent = `Pair ${kept.at + 1} of ${order.length}`;
    byId("missing").hidden = true;
    byId("back").disabled = kept.at === 0;
    byId("next").textContent = kept.at + 1 === order.length ? "Finish" : "Next";
    byId("trial-title").focus({ preventScroll: true });
    window.scrollTo(0, 0);
    const after = order[kept.at + 1];
    // So that it is there when it is wanted.
    if (after) [after.item.first, after.item.second].forEach((name) => { new Image().src = pictures[name]; });
  }

  function move(to) {
    count(); // for the item that is left
    kept.at = Math.min(Math.max(0, to), order.length);
    since = null;
    keep();
    show();
  }

  function next() {
    const [first, ...others] = open(order[kept.at]);
    if (!first) return move(kept.at + 1);
    const question = document.querySelector(`.question[data-key="${first.key}"]`);
    question.classList.add("is-open");
    byId("missing").textContent = others.length ? `${others.length + 1} questions are still open.` : "One question is still open.";
    byId("missing").hidden = false;
    question.querySelector("input").focus();
  }

  function begin(id) {
    rater = id;
    order = places(rater);
    since = null;
    try { kept = { at: 0, answers: {}, ms: {}, ...JSON.parse(store.get(`rater/${rater}`)) }; } catch { kept = { at: 0, answers: {}, ms: {} }; }
    store.set("last", rater);
    keep();
    show();
  }

  function welcome() {
    rater = "";
    order = [];
    since = null;
    for (const id of ["trial", "end", "who", "steps"]) byId(id).hidden = true;
    byId("intro").hidden = false;
    byId("consent").checked = false;
    byId("name").value = new URLSearchParams(location.hash.slice(1)).get("rater") || "";
  }

  function votes() {
    const rows = order.flatMap((place, at) => page.questions.flatMap(({ key }) => {
      const choice = (kept.answers[place.id] || {})[key];
      return choice ? [[page.study, rater, place.id, key, choice, at + 1, Math.round(kept.ms[place.id] || 0)]] : [];
    }));
    // Ids and keys hold no comma and no quote.
    return [COLUMNS, ...rows].map((row) => row.join(",")).join("\n") + "\n";
  }

  function download() {
    const address = URL.createObjectURL(new Blob([votes()], { type: "text/csv" }));
    const link = make("a", { href: address, download: `votes-${page.study}-${rater}.csv` });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  }

  byId("intro").addEventListener("submit", (event) => { event.preventDefault(); begin(byId("name").value.trim()); });
  byId("trial").addEventListener("submit", (event) => { event.preventDefault(); next(); });
  byId("back").addEventListener("click", () => move(kept.at - 1));
  byId("look").addEventListener("click", () => move(order.length - 1));
  byId("leave").addEventListener("click", () => { keep(); store.set("last", ""); welcome(); });
  byId("download").addEventListener("click", download);
  byId("shut").addEventListener("click", () => byId("large").close());
  document.addEventListener("visibilitychange", () => { if (rater) keep(); });
  window.addEventListener("pagehide", () => { if (rater) keep(); });
  setInterval(() => { if (rater && !document.hidden && order[kept.at]) keep(); }, TICK_MS);
  document.addEventListener("keydown", (event) => {
    const choice = keys[event.key.toLowerCase()];
    if (byId("trial").hidden || byId("large").open || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" && !event.target.closest("button")) {
      event.preventDefault();
      next();
    } else if (choice) {
      const focused = event.target.closest(".question");
      const key = focused ? focused.dataset.key : (open(order[kept.at])[0] || page.questions[0]).key;
      const radio = document.querySelector(`.question[data-key="${key}"] input[value="${choice}"]`);
      radio.checked = true;
      answer(key, choice);
      event.preventDefault();
    }
  });

  const last = store.get("last");
  const invited = new URLSearchParams(location.hash.slice(1)).get("rater");
  if (last && (!invited || invited === last)) begin(last);
  else welcome();
  self.styleStudy = { digest, places }; // for those who check the page
})();
