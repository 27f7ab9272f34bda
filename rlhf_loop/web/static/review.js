// One answer at a time: grades, comment, correction with its difference, drafts.
"use strict";

(() => {
  const SAVE_AFTER_MS = 600;
  const COMPARE_AFTER_MS = 250;
  const TRY_AGAIN_MS = 15000;
  const UNANSWERED = 8;
  const { place } = desk;
  let form = null;
  let original = "";
  let rating = null;
  let stored = "";
  let base = "";
  let unanswered = [];
  let saving = Promise.resolve();
  let saveTimer = 0;
  let compareTimer = 0;
  let compared = 0;

  const key = () => `rlhf-draft:${place.dataset.name}:${form.dataset.id}`;
  const fields = () => form.elements;

  function values() {
    const comment = fields().comment.value.trim();
    const correction = fields().correction.value;
    return {
      rating,
      comment: comment || null,
      correction: correction.trim() && correction.trim() !== original.trim() ? correction : null,
      harmful: fields().harmful.checked,
    };
  }

  // With what the server had of it: what it has got since, from another window or device, is newer than this.
  function keep(at, text) {
    desk.kept.write(at, { base, unanswered, text });
  }

  // What is sent may arrive without an answer to say so; then the server has that, and what is kept here is newer.
  function sending(text) {
    unanswered = [...unanswered, JSON.stringify(text)].slice(-UNANSWERED);
    keep(key(), text);
  }

  const isDirty = () => Boolean(form && form.dataset.id) && JSON.stringify(values()) !== stored;

  function holdsText() {
    return isDirty() && Boolean(values().comment || values().correction);
  }

  function note(words) {
    const line = form.querySelector("[data-saved]");
    if (line) line.textContent = words;
  }

  // Each draft waits for the one before it, so that none overtakes another, or what was submitted.
  function save({ keepalive = false } = {}) {
    clearTimeout(saveTimer);
    if (!isDirty()) return saving;
    const [saved, at, url, mine] = [values(), key(), form.dataset.draft, form];
    const send = async () => {
      if (mine === form) sending(saved);
      let answer;
      try {
        answer = await desk.call(url, { ...saved, seen: mine.elements.seen.value }, { keepalive });
      } catch (error) {
        if (mine !== form) return;
        note(error.status === 422 || error.status === 413 ? error.message : "Kept in this browser: the server has no draft yet");
        if (error.status === 401) desk.complain(error, () => desk.calm() || save());
        else if (error.status === 0 || error.status === 429 || error.status >= 500) saveTimer = setTimeout(() => desk.working || save(), TRY_AGAIN_MS);
        return;
      }
      if (mine !== form) return;
      stored = JSON.stringify(saved);
      [base, unanswered] = [answer.base, []];
      if (isDirty()) keep(at, values());
      else desk.kept.forget(at);
      note("Draft saved");
    };
    // A page that goes away cannot wait.
    saving = keepalive ? send() : saving.then(send);
    return saving;
  }

  function changed() {
    if (isDirty()) keep(key(), values());
    clearTimeout(saveTimer);
    // What is being submitted takes the draft away; a later one would bring it back.
    saveTimer = setTimeout(() => desk.working || save(), SAVE_AFTER_MS);
  }

  function showDifference() {
    clearTimeout(compareTimer);
    const panel = form.querySelector("[data-changed]");
    const words = form.querySelector("[data-changes]");
    const correction = values().correction;
    const mine = ++compared;
    panel.hidden = false;
    if (correction === null) {
      words.textContent = "Nothing yet.";
      return;
    }
    compareTimer = setTimeout(async () => {
      try {
        const answer = await desk.call(place.dataset.difference, { before: original, after: correction });
        if (mine === compared) words.replaceChildren(...answer.pieces.map(piece));
      } catch {
        if (mine === compared) words.textContent = "The difference cannot be shown now. What you typed stays.";
      }
    }, COMPARE_AFTER_MS);
  }

  function piece({ kind, text }) {
    if (kind === "same") return document.createTextNode(text);
    const element = document.createElement(kind === "added" ? "ins" : "del");
    element.append(unseen(` [${kind}: `), text, unseen("] "));
    return element;
  }

  function unseen(words) {
    const element = document.createElement("span");
    element.className = "unseen";
    element.textContent = words;
    return element;
  }

  function choose(value) {
    rating = value;
    for (const button of form.querySelectorAll("[name=rating]")) {
      button.setAttribute("aria-pressed", String(Number(button.value) === value));
    }
  }

  function restore() {
    const found = desk.kept.read(key());
    const text = found && found.text;
    const newer = text && (found.base === base || found.unanswered.includes(stored));
    if (!newer || JSON.stringify(text) === stored) return desk.kept.forget(key());
    fields().comment.value = text.comment || "";
    fields().harmful.checked = Boolean(text.harmful);
    if (text.correction) {
      fields().correction.value = text.correction;
      form.querySelector("[data-correct]").open = true;
      showDifference();
    }
    choose(text.rating);
    note("What you typed is back");
    changed();
  }

  function opened(found) {
    form = found;
    clearTimeout(saveTimer);
    compared += 1;
    rating = null;
    stored = "";
    if (!form.dataset.id) return;
    original = form.querySelector("[data-response]").value;
    const pressed = form.querySelector("[name=rating][aria-pressed=true]");
    rating = pressed ? Number(pressed.value) : null;
    stored = JSON.stringify(values());
    [base, unanswered] = [form.dataset.base, []];
    if (!values().correction) showDifference();
    restore();
    form.addEventListener("input", (event) => {
      changed();
      if (event.target === fields().correction) showDifference();
    });
  }

  function rate(value) {
    if (!form.dataset.id || !desk.takes("grade")) return;
    choose(value);
    const [sent, at, { rate: url, now }] = [values(), key(), form.dataset];
    const seen = fields().seen.value;
    sending(sent);
    clearTimeout(saveTimer);
    desk.act(async () => {
      await saving;
      let answer;
      try {
        answer = await desk.call(url, { ...sent, seen });
      } catch (error) {
        if (error.status !== 404 && error.status !== 409) throw error;
        // It is gone, for example deleted: there is nothing to rate any more. Or it was graded in another window.
        const gone = error.status === 404;
        answer = await desk.call(gone ? place.dataset.next : now);
        answer.message = gone ? `${error.message} Here is the next one.` : error.message;
      }
      desk.kept.forget(at);
      return answer;
    }, () => rate(value));
  }

  function submit() {
    if (!form.dataset.id || !desk.takes("grade")) return;
    if (rating !== null) return rate(rating);
    const { comment, correction } = values();
    const what = correction ? "your correction" : comment ? "your comment" : "this answer";
    const grades = form.querySelector("[data-grades]");
    grades.classList.add("wanted");
    grades.focus();
    desk.say(`Choose a grade from 1 to 5: it is stored together with ${what}.`);
  }

  async function go(url) {
    if (desk.working) return;
    desk.act(async () => {
      if (form.dataset.id) await save();
      return desk.call(url);
    });
  }

  function skip() {
    if (!form.dataset.id) return;
    if ("back" in form.dataset) return go(form.dataset.following);
    if (!desk.takes("skip")) return;
    const url = form.dataset.skip;
    desk.act(async () => {
      await save();
      return desk.call(url, {});
    });
  }

  function undo() {
    if (desk.working) return;
    desk.act(async () => {
      if (form.dataset.id) await save();
      return desk.call(place.dataset.undo, {});
      // If it is not known whether it arrived, a second one could take back too much.
    }, () => desk.act(() => desk.call(place.dataset.next)));
  }

  function previous() {
    go(form.dataset.id ? form.dataset.previous : place.dataset.newest);
  }

  function flag() {
    if (!form.dataset.id) return;
    const tick = fields().harmful;
    tick.checked = !tick.checked;
    changed();
    desk.say(tick.checked ? "Flagged as harmful." : "The flag is taken back.");
  }

  function comment() {
    if (!form.dataset.id) return;
    const { comment: field } = fields();
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }

  function correct() {
    if (!form.dataset.id) return;
    const part = form.querySelector("[data-correct]");
    part.open = true;
    fields().correction.focus({ preventScroll: true });
    const room = window.innerHeight - form.querySelector(".desk-bar").offsetHeight;
    part.scrollIntoView({ block: part.offsetHeight > room ? "start" : "nearest" });
  }

  const does = { previous, skip, undo, following: skip, keep: save };

  window.addEventListener("pagehide", () => {
    if (isDirty()) save({ keepalive: true });
  });
  window.addEventListener("online", () => {
    if (isDirty()) save();
  });

  desk.start({
    opened,
    holdsText,
    submit,
    hint: "The keys 1 to 5 grade and go on; ? shows all keys.",
    clicked: (name, value) => (name === "rating" ? rate(Number(value)) : does[value]()),
    keys: {
      ...Object.fromEntries([1, 2, 3, 4, 5].map((value) => [value, () => rate(value)])),
      c: comment, e: correct, f: flag, u: undo, ArrowLeft: previous, ArrowRight: skip,
    },
  });
})();
