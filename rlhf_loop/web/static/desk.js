// Shared by the raters' screens: calls to the server, messages, keys, and typed text, kept until the server has it.
// The pages work without it. With it, the next answer comes without a new page, and the keys work.
"use strict";

const desk = (() => {
  const place = document.getElementById("desk");
  const said = document.getElementById("said");
  const trouble = document.getElementById("trouble");
  const help = document.getElementById("help");
  const retry = trouble.querySelector("[data-retry]");
  const signIn = trouble.querySelector("[data-sign-in]");
  const keysOn = help.querySelector("[data-keys-on]");
  // Nobody reads an answer in this time: what comes within it was meant for the one before, as a double press is.
  const SETTLING_MS = 400;
  const PATIENCE_MS = 15000;
  const KEYS_OFF = "rlhf-keys-off";
  let token = place.dataset.token;
  let again = null;
  let working = false;
  let settling = 0;
  let screen = null;

  class Refused extends Error {
    constructor(status, message) {
      super(message);
      this.status = status;
    }
  }

  async function once(url, body, keepalive) {
    const sent = body === undefined ? {} : {
      method: "POST",
      body: JSON.stringify(body),
      headers: { "Content-Type": "application/json", "X-Form-Token": token },
    };
    let response;
    try {
      response = await fetch(url, {
        ...sent,
        headers: { ...sent.headers, Accept: "application/json", "X-Screen": "1" },
        keepalive,
        signal: keepalive ? undefined : AbortSignal.timeout(PATIENCE_MS),
      });
    } catch {
      throw new Refused(0, _("The server does not answer."));
    }
    const json = (response.headers.get("Content-Type") || "").includes("json");
    let answer = {};
    try {
      if (json) answer = await response.json();
    } catch {
      throw new Refused(0, _("The server's answer broke off."));
    }
    if (response.ok && json) return answer;
    throw new Refused(response.ok ? 502 : response.status, answer.detail || _("The server answered {status}.", { status: response.status }));
  }

  // Who signed in again, in another tab, has another form token; nobody else's name may get what is typed here.
  async function renewToken() {
    const session = await once(place.dataset.session);
    if (session.name !== place.dataset.name) {
      throw new Refused(403, _("You are signed in as {name} now, but this page is {owner}'s. Sign in as before to keep what is typed, or reload the page.",
        { name: session.name, owner: place.dataset.name }));
    }
    token = session.form_token;
  }

  async function call(url, body, { keepalive = false } = {}) {
    try {
      return await once(url, body, keepalive);
    } catch (error) {
      if (error.status !== 403 || keepalive) throw error;
      await renewToken();
      return once(url, body, keepalive);
    }
  }

  function say(message) {
    // A new node each time: the same words twice are two messages.
    said.replaceChildren(document.createTextNode(message));
    const seen = place.querySelector("[data-said]");
    if (seen) seen.textContent = message;
  }

  // Whether the same may go well a little later, by itself or once somebody has signed in again.
  const passes = ({ status }) => status === 0 || status >= 500 || [401, 403, 408, 409, 429].includes(status);

  function complain(error, repeat) {
    if (!(error instanceof Refused)) throw error;
    const signedOut = error.status === 401;
    const passing = passes(error);
    const kept = screen.holdsText() ? ` ${_("What you typed is kept.")}` : "";
    const words = signedOut
      ? `${_("You are signed out.")}${kept} ${_("Sign in in a new tab, come back here, and retry.")}`
      : `${error.message}${kept}${passing ? ` ${screen.again || _("Try again.")}` : ""}`;
    again = passing ? repeat : null;
    signIn.hidden = !signedOut;
    retry.hidden = !passing;
    trouble.hidden = false;
    trouble.querySelector("[data-words]").textContent = words;
    say("");
  }

  function calm() {
    trouble.hidden = true;
    trouble.querySelector("[data-words]").textContent = "";
    again = null;
  }

  function settle() {
    clearTimeout(settling);
    place.removeAttribute("data-ready");
    settling = setTimeout(() => place.setAttribute("data-ready", ""), SETTLING_MS);
  }

  function show(answer) {
    if (answer.html !== null) {
      place.innerHTML = answer.html;
      history.replaceState(null, "", answer.at);
      opened();
      settle();
      const heading = document.getElementById("heading");
      heading.focus({ preventScroll: true });
      // Down on a small screen, the next one begins where it can be read.
      const start = (place.querySelector(".question") || place).getBoundingClientRect().top;
      if (start < 0) window.scrollBy(0, start - 12);
    }
    say(answer.message);
    return answer.html !== null;
  }

  // Whether something that changes an answer is taken now. What comes too early must not look as if it were done.
  function takes(early) {
    if (isBusy()) return false;
    if (place.hasAttribute("data-ready")) return true;
    say(early);
    return false;
  }

  function isBusy() {
    if (working) say(_("One moment: the server is still at what you did last. Then press again."));
    return working;
  }

  // One thing at a time: what is pressed meanwhile is not meant for what comes next.
  async function act(work, repeat = () => act(work)) {
    if (working) return;
    const settled = place.hasAttribute("data-ready");
    working = true;
    place.removeAttribute("data-ready");
    place.setAttribute("aria-busy", "true");
    calm();
    let shown = false;
    try {
      shown = show(await work());
    } catch (error) {
      complain(error, repeat);
    } finally {
      working = false;
      if (settled && !shown) place.setAttribute("data-ready", "");
      place.removeAttribute("aria-busy");
    }
  }

  function opened() {
    for (const button of place.querySelectorAll("[data-help]")) button.hidden = false;
    screen.opened(place.querySelector("[data-form]"));
  }

  function showHelp() {
    const form = place.querySelector("[data-form]");
    help.querySelector("[data-reason]").textContent = (form && form.dataset.reason) || "";
    help.showModal();
  }

  function inField(element) {
    return element.closest("textarea, select, [contenteditable], input:not([type=checkbox], [type=radio])");
  }

  function leave() {
    document.getElementById("heading").focus({ preventScroll: true });
  }

  function pressed(event) {
    // While an input method composes, its keys are letters; a key held down is one press.
    if (event.isComposing || event.keyCode === 229 || event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const field = inField(event.target);
    const control = event.ctrlKey || event.metaKey;
    let does = null;
    if (event.key === "Enter" && control && !event.altKey) does = screen.submit;
    else if (event.key === "Escape" && field) does = leave;
    else if (field || control || event.altKey || event.getModifierState("AltGraph")) return;
    else if (event.key.length > 1) does = screen.keys[event.key];
    else if (keysOn.checked) does = event.key === "?" ? showHelp : screen.keys[event.key.toLowerCase()];
    // Enter on a tick would send the form, with its first button.
    if (!does && event.key === "Enter" && event.target.closest("input")) event.preventDefault();
    if (!does) return;
    event.preventDefault();
    if (!event.repeat) does();
  }

  function start(mode) {
    screen = mode;
    place.addEventListener("click", (event) => {
      if (event.target.closest("[data-help]")) showHelp();
    });
    place.addEventListener("submit", (event) => {
      event.preventDefault();
      if (event.submitter) screen.clicked(event.submitter.name, event.submitter.value);
    });
    document.addEventListener("keydown", pressed);
    retry.addEventListener("click", async () => {
      const repeat = again;
      if (!repeat) return;
      try {
        await renewToken();
      } catch (error) {
        complain(error, repeat);
        return;
      }
      repeat();
    });
    trouble.querySelector("[data-close]").addEventListener("click", () => {
      calm();
      leave();
    });
    keysOn.checked = !kept.read(KEYS_OFF);
    keysOn.addEventListener("change", () => (keysOn.checked ? kept.forget(KEYS_OFF) : kept.write(KEYS_OFF, true)));
    opened();
    place.setAttribute("data-ready", "");
    const seen = place.querySelector("[data-said]");
    if (seen && matchMedia("(hover: hover)").matches) seen.textContent = mode.hint;
  }

  // What this browser keeps. It may be forbidden to keep anything, or have no room; then there is only the server.
  const kept = {
    read(key) {
      try {
        return JSON.parse(localStorage.getItem(key));
      } catch {
        return null;
      }
    },
    write(key, value) {
      try {
        localStorage.setItem(key, JSON.stringify(value));
        return true;
      } catch {
        return false;
      }
    },
    forget(key) {
      try {
        localStorage.removeItem(key);
      } catch {
        // See above.
      }
    },
    names(beginning) {
      try {
        return Object.keys(localStorage).filter((name) => name.startsWith(beginning)).sort();
      } catch {
        return [];
      }
    },
  };

  return {
    act, call, complain, calm, isBusy, kept, passes, place, say, show, showHelp, start, takes,
    get working() { return working; },
  };
})();
