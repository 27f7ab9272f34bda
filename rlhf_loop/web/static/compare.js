// The comparison screen: two answers beside each other.
"use strict";

(() => {
  const { place } = desk;
  const EARLY = _("That was too quick: the next two answers are here now. Press again to choose.");
  let form = null;

  const key = () => `rlhf-pair:${place.dataset.name}:${form.dataset.id}`;
  const comment = () => (form.dataset.id ? form.elements.comment.value.trim() : "");

  function opened(found) {
    form = found;
    if (!form.dataset.id) return;
    form.elements.comment.value = desk.kept.read(key()) || "";
    form.addEventListener("input", () => (comment() ? desk.kept.write(key(), comment()) : desk.kept.forget(key())));
  }

  function send(url, body) {
    const at = key();
    desk.act(async () => {
      let answer;
      try {
        answer = await desk.call(url, body);
      } catch (error) {
        if (error.status !== 404) throw error;
        answer = await desk.call(place.dataset.next);
        answer.message = `${error.message} ${_("Here are the next two.")}`;
      }
      desk.kept.forget(at);
      return answer;
    });
  }

  function choose(better) {
    if (!form.dataset.id || !desk.takes(EARLY)) return;
    send(form.dataset.choice, {
      better,
      left_is_first: form.dataset.leftIsFirst === "true",
      comment: comment() || null,
    });
  }

  function skip() {
    if (form.dataset.id && desk.takes(EARLY)) send(form.dataset.skip, {});
  }

  function undo() {
    if (desk.isBusy()) return;
    desk.act(
      () => desk.call(place.dataset.undo, {}),
      // If it is not known whether it arrived, a second one could take back too much.
      () => desk.act(() => desk.call(place.dataset.next)),
    );
  }

  function previous() {
    desk.say(_("Press u to take back your last choice."));
  }

  function submit() {
    if (form.dataset.id) desk.say(_("Choose A, B or as good: leave the field with Esc, then press a, b or t."));
  }

  const [left, right, tie] = ["left", "right", "tie"].map((better) => () => choose(better));
  const does = { left, right, tie, skip, undo };

  desk.start({
    opened,
    submit,
    hint: _("The keys a, b and t choose and go on; ? shows all keys."),
    holdsText: () => Boolean(comment()),
    clicked: (_, value) => does[value](),
    keys: {
      a: left, b: right, t: tie, "=": tie, s: skip, u: undo, ArrowLeft: previous, ArrowRight: skip,
      c: () => form.dataset.id && form.elements.comment.focus(),
    },
  });
})();
