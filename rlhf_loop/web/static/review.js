// One answer at a time: grades, comment, correction with its difference, drafts.
// While an answer is read the next one is fetched ahead, and what was graded or skipped goes to the server meanwhile. It
// stays in this browser until the server has it, and goes in order: also after a while without a network, or a reload.
"use strict";

(() => {
  const SAVE_AFTER_MS = 600;
  const COMPARE_AFTER_MS = 250;
  const TRY_AGAIN_MS = 15000;
  const UNANSWERED = 8;
  const RETURN_AGAIN_MS = 200;
  const DELIVER_AGAIN_MS = [2000, 5000, 15000];
  // Browsers send no more than 64 kB of a page that goes away.
  const LARGEST_OF_A_LEAVING_PAGE = 20000;
  const EARLY_GRADE = _("That was too quick: the next answer is here now. Press again to grade it.");
  const EARLY_SKIP = _("That was too quick: the next answer is here now. Press again to skip it.");
  const EARLY_FLAG = _("That was too quick: the next answer is here now. Press again to flag it.");
  // As in review.css.
  const wide = matchMedia("(min-width: 68.75rem)");
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
  let ahead = null;
  let fetching = Promise.resolve();
  let unsent = [];
  let delivery = Promise.resolve();
  let deliverTimer = 0;
  let failures = 0;
  let stuck = null;
  let state = "";
  const unheard = document.getElementById("unsent");
  const outbox = `rlhf-unsent:${place.dataset.name}:`;

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
    const typed = ({ comment, correction }) => Boolean(comment || correction);
    return unsent.some((entry) => typed(entry.body)) || (isDirty() && typed(values()));
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
        note(error.status === 422 || error.status === 413 ? error.message : _("Kept in this browser: the server has no draft yet"));
        if (error.status === 401) desk.complain(error, () => desk.calm() || save());
        else if (error.status === 0 || error.status === 429 || error.status >= 500) saveTimer = setTimeout(() => desk.working || save(), TRY_AGAIN_MS);
        return;
      }
      if (mine !== form) return;
      stored = JSON.stringify(saved);
      [base, unanswered] = [answer.base, []];
      if (isDirty()) keep(at, values());
      else desk.kept.forget(at);
      note(_("Draft saved"));
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
      words.textContent = _("Nothing yet.");
      return;
    }
    compareTimer = setTimeout(async () => {
      try {
        const answer = await desk.call(place.dataset.difference, { before: original, after: correction });
        if (mine === compared) words.replaceChildren(...answer.pieces.map(piece));
      } catch {
        if (mine === compared) words.textContent = _("The difference cannot be shown now. What you typed stays.");
      }
    }, COMPARE_AFTER_MS);
  }

  function piece({ kind, text }) {
    if (kind === "same") return document.createTextNode(text);
    const element = document.createElement(kind === "added" ? "ins" : "del");
    element.append(unseen(` ${kind === "added" ? _("[added:") : _("[removed:")} `), text, unseen("] "));
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
    note(_("What you typed is back"));
    changed();
  }

  // Where there is room beside the answer, what stands there is open, unless somebody has folded it.
  function unfold() {
    for (const part of form.querySelectorAll("[data-fold]")) {
      const at = `rlhf-folded:${part.dataset.fold}`;
      if (!wide.matches) continue;
      part.open = !desk.kept.read(at);
      part.addEventListener("toggle", () => wide.matches && (part.open ? desk.kept.forget(at) : desk.kept.write(at, true)));
    }
  }

  function opened(found) {
    form = found;
    clearTimeout(saveTimer);
    compared += 1;
    rating = null;
    stored = "";
    stuck = null;
    place.removeAttribute("data-ahead");
    tell(state);
    fetchAhead();
    if (!form.dataset.id) return;
    original = form.querySelector("[data-response]").value;
    const pressed = form.querySelector("[name=rating][aria-pressed=true]");
    rating = pressed ? Number(pressed.value) : null;
    stored = JSON.stringify(values());
    [base, unanswered] = [form.dataset.base, []];
    if (!values().correction) showDifference();
    unfold();
    restore();
    form.addEventListener("input", (event) => {
      changed();
      if (event.target === fields().correction) showDifference();
    });
  }

  function rate(value) {
    if (!form.dataset.id || !desk.takes(EARLY_GRADE)) return;
    choose(value);
    const text = values();
    sending(text);
    clearTimeout(saveTimer);
    if (fields().home) return goHome(value, text);
    hand({ url: form.dataset.rate, draft: key(), text, body: { ...text, seen: fields().seen.value }, words: _("Rated {grade}.", { grade: value }) });
  }

  // Back to the page that led here, which says how it went.
  function goHome(value, text) {
    const mine = form;
    // A draft that is under way would arrive after the grade, and stay.
    saving.then(() => {
      stored = JSON.stringify(text);
      const grade = Object.assign(document.createElement("input"), { type: "hidden", name: "rating", value });
      mine.append(grade);
      mine.submit();
    });
  }

  // Show the next answer if it is here, and deliver meanwhile; else deliver first, and the response brings the next one.
  function hand({ words, ...given }) {
    const { id, now, following } = form.dataset;
    for (const each of unsent.filter((each) => each.id === id)) drop(each);
    const entry = { ...given, id, now, at: `${outbox}${Date.now()}:${id}`, body: { ...given.body, bring: false } };
    unsent.push(entry);
    entry.safe = desk.kept.write(entry.at, entry);
    const next = taken(words);
    if (!next) return follow("back" in form.dataset ? following : place.dataset.next, entry, words);
    const meters = place.querySelector(".meters");
    desk.calm();
    desk.show(next);
    place.querySelector(".meters").replaceWith(meters);
    deliverBeside();
  }

  function taken(words) {
    const next = fresh();
    ahead = null;
    return next && { ...next, message: `${words} ${next.message}` };
  }

  function drop(entry) {
    unsent = unsent.filter((each) => each !== entry);
    desk.kept.forget(entry.at);
  }

  const stays = (error) => error.status !== 409 && desk.passes(error);

  // One after the other, as they were given; what is refused for good is not tried again.
  function deliver() {
    delivery = delivery.catch(() => {}).then(async () => {
      let answer = null;
      clearTimeout(deliverTimer);
      while (unsent.length) {
        const [entry] = unsent;
        tell(_("Saving …"));
        await saving;
        try {
          answer = await desk.call(entry.url, entry.body);
        } catch (error) {
          if (stays(error)) deliverLater(error);
          else drop(entry);
          // A review of another window is there, with what was typed here beside it; or the answer is gone.
          if (error.status === 409 || error.status === 404) desk.kept.forget(entry.draft);
          error.entry = entry;
          throw error;
        }
        drop(entry);
        const kept = entry.draft && desk.kept.read(entry.draft);
        if (kept && JSON.stringify(kept.text) === JSON.stringify(entry.text)) desk.kept.forget(entry.draft);
        const meters = place.querySelector(".meters");
        if (answer.progress && meters) meters.outerHTML = answer.progress;
      }
      if (failures) desk.calm();
      failures = 0;
      tell(answer ? _("Saved") : "");
      return answer;
    });
    return delivery;
  }

  function deliverLater({ status }) {
    failures += 1;
    tell(_("{n} not sent yet: kept in this browser, and sent as soon as that works", { n: unsent.length }));
    // Who is signed out has to do something first.
    if (status === 401 || status === 403) return;
    deliverTimer = setTimeout(deliverBeside, DELIVER_AGAIN_MS[Math.min(failures, DELIVER_AGAIN_MS.length) - 1]);
  }

  function deliverBeside() {
    deliver().then(() => (stuck ? stuck() : fetchAhead()), (error) => {
      if (!error.entry) throw error;
      if (error.status === 401 || error.status === 403) desk.complain(error, deliverBeside);
      else if (!stays(error)) returnTo(error);
    });
  }

  // What was refused after the next answer was shown: that it is gone is only said, else it is opened again.
  function returnTo(error) {
    if (desk.working) return setTimeout(() => returnTo(error), RETURN_AGAIN_MS);
    const { entry, status, message } = error;
    if (status === 404) {
      desk.say(`${message} ${_("Here is the next one.")}`);
      return deliverBeside();
    }
    desk.act(() => reopened(error), () => returnTo(error)).then(() => {
      if (status !== 409) desk.complain(error);
      deliverBeside();
    });
  }

  async function reopened({ entry, message }) {
    if (form.dataset.id && form.dataset.id !== entry.id) await save();
    const answer = await desk.call(entry.now);
    return { ...answer, message };
  }

  function follow(onward, mine, words) {
    const repeat = () => follow(onward);
    desk.act(async () => {
      let answer;
      // Asked for twice at a time, there would be two, in an order that nobody knows.
      await fetching;
      const next = mine && taken(words);
      if (next) {
        setTimeout(deliverBeside);
        return next;
      }
      if (mine) mine.body.bring = true;
      try {
        answer = await deliver();
      } catch (error) {
        if (!error.entry || stays(error)) {
          stuck = repeat;
          throw error;
        }
        const { entry, status, message } = error;
        if (status === 404) return { ...(await desk.call(place.dataset.next)), message: `${message} ${_("Here is the next one.")}` };
        if (status !== 409 && entry.id === form.dataset.id) throw error;
        return reopened(error);
      }
      return answer && answer.html !== null ? answer : desk.call(onward);
    }, repeat);
  }

  function fresh() {
    return ahead && ahead.of === form.dataset.id && Date.now() < ahead.until ? ahead.answer : null;
  }

  function fetchAhead() {
    fetching = fetching.then(fetchNow);
    return fetching;
  }

  async function fetchNow() {
    const { id, ahead: url } = form.dataset;
    if (!url || "back" in form.dataset || unsent.length || fresh()) return;
    ahead = null;
    let answer;
    try {
      answer = await desk.call(url);
    } catch {
      // Then it comes when it is asked for, and what is wrong is said there.
      return;
    }
    if (answer.html === null || id !== form.dataset.id || unsent.length) return;
    // It is kept from other raters for as long as the server says; long before that is over it is asked for anew. By the
    // clock on the wall: the other one stands still while a machine sleeps.
    ahead = { of: id, answer, until: Date.now() + 500 * place.dataset.lease };
    place.setAttribute("data-ahead", "");
  }

  function tell(words) {
    state = words;
    place.toggleAttribute("data-unsent", unsent.length > 0);
    const seen = place.querySelector("[data-state]");
    if (seen) seen.textContent = words;
    const heard = unsent.length && failures ? words : "";
    if (unheard.textContent !== heard) unheard.textContent = heard;
  }

  function submit() {
    if (!form.dataset.id || !desk.takes(EARLY_GRADE)) return;
    if (rating !== null) return rate(rating);
    const { comment, correction } = values();
    const grades = form.querySelector("[data-grades]");
    grades.classList.add("wanted");
    grades.focus();
    desk.say(
      correction ? _("Choose a grade from 1 to 5: it is stored together with your correction.")
      : comment ? _("Choose a grade from 1 to 5: it is stored together with your comment.")
      : _("Choose a grade from 1 to 5: it is stored together with this answer."),
    );
  }

  function go(url) {
    if (desk.isBusy()) return;
    desk.act(async () => {
      if (form.dataset.id) await save();
      await deliver();
      return desk.call(url);
    });
  }

  function skip(reason = {}) {
    if (!form.dataset.id || !desk.takes(EARLY_SKIP)) return;
    save();
    hand({ url: form.dataset.skip, body: reason, words: _("Skipped.") });
  }

  function following() {
    if ("back" in form.dataset) go(form.dataset.following);
    else skip();
  }

  function notMyField() {
    if (!("back" in form.dataset)) skip({ not_my_field: true });
  }

  function undo() {
    if (desk.isBusy()) return;
    let delivered = false;
    desk.act(async () => {
      if (form.dataset.id) await save();
      await deliver();
      delivered = true;
      return desk.call(place.dataset.undo, {});
      // If it is not known whether it arrived, a second one could take back too much.
    }, () => (delivered ? desk.act(() => desk.call(place.dataset.next)) : undo()));
  }

  function previous() {
    go(form.dataset.id ? form.dataset.previous : place.dataset.newest);
  }

  function flag() {
    if (!form.dataset.id || !desk.takes(EARLY_FLAG)) return;
    const tick = fields().harmful;
    tick.checked = !tick.checked;
    changed();
    desk.say(tick.checked ? _("Flagged as harmful.") : _("The flag is taken back."));
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

  const does = { previous, undo, following, skip: following, field: notMyField, keep: save };

  window.addEventListener("pagehide", () => {
    if (isDirty()) save({ keepalive: true });
    // The first alone: several at once would arrive in any order. The others are kept here for the next page.
    const [first] = unsent;
    if (!first) return;
    const leaving = { ...first.body, bring: false };
    if (JSON.stringify(leaving).length < LARGEST_OF_A_LEAVING_PAGE) desk.call(first.url, leaving, { keepalive: true }).catch(() => {});
  });
  window.addEventListener("beforeunload", (event) => {
    if (unsent.some((entry) => !entry.safe)) event.preventDefault();
  });
  window.addEventListener("online", () => {
    if (isDirty()) save();
    if (unsent.length) deliverBeside();
  });
  // Another window or device may have had the answer that was fetched ahead.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    ahead = null;
    fetchAhead();
  });

  unsent = desk.kept.names(outbox).map(desk.kept.read).filter(Boolean);
  desk.start({
    opened,
    holdsText,
    get again() { return unsent.length ? _("It is sent by itself as soon as that works.") : _("Try again."); },
    submit,
    hint: _("The keys 1 to 5 grade and go on; ? shows all keys."),
    clicked: (name, value) => (name === "rating" ? rate(Number(value)) : does[value]()),
    keys: {
      ...Object.fromEntries([1, 2, 3, 4, 5].map((value) => [value, () => rate(value)])),
      c: comment, e: correct, f: flag, u: undo, n: notMyField, ArrowLeft: previous, ArrowRight: following,
    },
  });
  if (unsent.some((entry) => entry.id === form.dataset.id)) follow(place.dataset.next);
  else if (unsent.length) deliverBeside();
})();
