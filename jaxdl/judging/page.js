"use strict";
(() => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const place = "jaxdl-judging-" + content.page;
  const pairs = content.kind === "pairs";
  const total = content.questions.length;
  const by = (id) => document.getElementById(id);
  const options = pairs
    ? [["a", "A is better", "a"], ["same", "Same", "s"], ["b", "B is better", "b"]]
    : Array.from({ length: content.scale.high }, (_, i) => [i + 1, String(i + 1), String(i + 1)]);
  const blank = () => ({ judge: "", answers: {}, at: 0, shortcuts: true });
  let state = blank();

  const warn = (words) => { by("notice").textContent = words; by("notice").hidden = false; };
  const unkept = "This browser does not keep your answers. Download them before you close the page.";

  function load() {
    try {
      const kept = JSON.parse(localStorage.getItem(place) || "null");
      if (kept && typeof kept.answers === "object" && kept.answers !== null) {
        state = Object.assign(blank(), kept);
        state.at = Math.min(Math.max(0, Number(state.at) || 0), total);
      }
    } catch { warn(unkept); }
  }

  function save() {
    try { localStorage.setItem(place, JSON.stringify(state)); } catch { warn(unkept); }
  }

  function element(tag, text, attributes) {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
    return made;
  }

  function fill(box, pieces, name) {
    pieces.forEach((piece, index) => {
      if ("text" in piece) {
        box.append(element("p", piece.text, { class: "text", dir: "auto" }));
        return;
      }
      const kind = "image" in piece ? "image" : "audio";
      const label = piece.alt || name + ", " + (kind === "image" ? "picture " : "recording ") + (index + 1);
      const uri = content.media[piece[kind]];
      box.append(kind === "image"
        ? element("img", "", { src: uri, alt: label })
        : element("audio", "", { src: uri, controls: "", preload: "metadata", "aria-label": label }));
    });
  }

  const answered = () => content.questions.filter((_, i) => i + 1 in state.answers).length;

  function showProgress() {
    by("progress").hidden = !state.judge;
    by("count").textContent = answered() + " of " + total + " answered";
    by("bar").max = total;
    by("bar").value = answered();
  }

  function showQuestion() {
    const question = content.questions[state.at];
    by("question-heading").textContent = "Question " + (state.at + 1) + " of " + total;
    by("prompt").replaceChildren();
    fill(by("prompt"), question.prompt, "Question");
    by("answers").replaceChildren();
    by("answers").className = pairs ? "two" : "";
    question.answers.forEach((pieces, index) => {
      const name = pairs ? "Answer " + "AB"[index] : "Answer";
      const box = element("section", "", { class: "answer", "aria-label": name });
      box.append(element("h3", name));
      fill(box, pieces, name);
      by("answers").append(box);
    });
    by("previous").disabled = state.at === 0;
    by("next").disabled = state.at === total - 1;
    showChoices();
  }

  function showChoices() {
    const [low, high] = content.scale.ends;
    const label = pairs ? "Which is better?" : "From 1 (" + low + ") to " + content.scale.high + " (" + high + ")";
    const buttons = options.map(([value, words]) => {
      const chosen = state.answers[state.at + 1] === value;
      const button = element("button", words, { type: "button", "aria-pressed": String(chosen), "data-value": value });
      button.addEventListener("click", () => choose(value));
      return button;
    });
    by("choices").setAttribute("aria-label", label);
    by("choices").replaceChildren(...(pairs ? [] : [element("p", label, { class: "note wide" })]), ...buttons);
  }

  function showEnd() {
    const left = total - answered();
    by("end-heading").textContent = left ? "Not all answered yet" : "All answered, thank you";
    by("missing").textContent = left
      ? left + " of " + total + " questions have no answer. You can still download the others."
      : "";
    by("copy").value = exported();
  }

  function show(focus) {
    const name = !state.judge ? "start" : state.at < total ? "question" : "end";
    for (const each of ["start", "question", "end"]) by(each).hidden = each !== name;
    if (name === "question") showQuestion();
    if (name === "end") showEnd();
    showProgress();
    if (focus) { window.scrollTo(0, 0); by(name + "-heading").focus(); }
  }

  function go(to) { state.at = Math.min(Math.max(0, to), total); save(); show(true); }

  function choose(value) {
    const words = options.find((option) => option[0] === value)[1];
    state.answers[state.at + 1] = value;
    by("status").textContent = "Question " + (state.at + 1) + ": " + words + ". Saved.";
    go(state.at + 1);
  }

  function exported() {
    const answers = Object.entries(state.answers)
      .map(([question, answer]) => ({ question: Number(question), answer }))
      .sort((x, y) => x.question - y.question);
    const record = { format: "jaxdl-judgements", version: 1, page: content.page, judge: state.judge,
      saved: new Date().toISOString(), answers };
    return JSON.stringify(record, null, 2) + "\n";
  }

  function download() {
    const address = URL.createObjectURL(new Blob([exported()], { type: "application/json" }));
    const judge = state.judge.replace(/[^\p{L}\p{N}]+/gu, "-");
    const link = element("a", "", { href: address, download: "judgements-" + content.page + "-" + judge + ".json" });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
    by("status").textContent = "The answers were downloaded.";
  }

  function pressed(event) {
    const typing = event.target instanceof HTMLInputElement && event.target.type === "text"
      || event.target instanceof HTMLTextAreaElement;
    if (typing || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    if (by("question").hidden || !by("shortcuts").checked) return;
    const key = event.key.toLowerCase();
    const option = options.find((each) => each[2] === key);
    if (option) choose(option[0]);
    else if (key === "n" && !by("next").disabled) go(state.at + 1);
    else if (key === "p" && !by("previous").disabled) go(state.at - 1);
    else return;
    event.preventDefault();
  }

  function showKeys() {
    const rating = "1 to " + content.scale.high;
    const list = pairs ? [["A", "A is better"], ["S", "same"], ["B", "B is better"]] : [[rating, "rate"]];
    for (const [key, words] of [...list, ["N", "next"], ["P", "previous"]]) {
      by("keys").append(element("kbd", key), " " + words + "  ");
    }
  }

  by("title").textContent = content.title;
  by("instructions").textContent = content.instructions;
  by("begin").addEventListener("submit", (event) => {
    event.preventDefault();
    const judge = by("judge").value.trim();
    if (!judge) { by("judge").value = ""; by("judge").reportValidity(); return; }
    state.judge = judge;
    go(0);
  });
  by("previous").addEventListener("click", () => go(state.at - 1));
  by("next").addEventListener("click", () => go(state.at + 1));
  by("finish").addEventListener("click", () => go(total));
  by("back").addEventListener("click", () => {
    const open = content.questions.findIndex((_, i) => !(i + 1 in state.answers));
    go(open < 0 ? 0 : open);
  });
  by("download").addEventListener("click", download);
  by("clear").addEventListener("click", () => {
    if (!confirm("Delete the answers in this browser?")) return;
    state = blank();
    try { localStorage.removeItem(place); } catch { warn(unkept); }
    by("judge").value = "";
    show(true);
  });
  by("shortcuts").addEventListener("change", () => { state.shortcuts = by("shortcuts").checked; save(); });
  document.addEventListener("keydown", pressed);
  load();
  by("shortcuts").checked = state.shortcuts !== false;
  showKeys();
  show(false);
})();
