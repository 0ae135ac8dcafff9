// Put into each MiniWoB++ page before its own scripts: what we see of it, and what we do in it.
(() => {
  "use strict";
  const LONGEST_TEXT = 200, MOST_ITEMS = 300;

  // Some tasks draw random numbers while they load, before a seed can be set.
  let state = Number(new URLSearchParams(location.search).get("seed")) >>> 0;
  Math.random = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };

  // What listens to the mouse can be clicked; the page itself cannot be asked for it.
  const listens = new WeakSet();
  const add = EventTarget.prototype.addEventListener;
  EventTarget.prototype.addEventListener = function (type, ...rest) {
    if (/^(click|mousedown|mouseup)$/.test(type)) listens.add(this);
    return add.call(this, type, ...rest);
  };

  // Where animations end at once, what is seen after an action does not depend on the time.
  addEventListener("DOMContentLoaded", () => {
    if (window.jQuery) jQuery.fx.off = true;
    const style = document.createElement("style");
    style.textContent = "* { transition: none !important; animation: none !important }";
    document.head.append(style);
  });

  // The task's own listener comes after ours.
  const loaded = new Promise((done) => addEventListener("load", () => setTimeout(done)));

  const short = (text) => (text || "").replace(/\s+/g, " ").trim().slice(0, LONGEST_TEXT);
  const NATIVE = "a, button, input, select, textarea, option, [contenteditable=true], [onclick]";
  const SHAPES = "svg, circle, rect, polygon, ellipse, path, line, text, canvas";

  function clickable(element) {
    if (element === document.body) return false;  // the click tracker listens there
    return element.matches(NATIVE) || Boolean(element.onclick) || listens.has(element);
  }

  function kind(element) {
    if (element.isContentEditable || element instanceof HTMLTextAreaElement) return "field";
    if (element instanceof HTMLSelectElement) return "select";
    if (!(element instanceof HTMLInputElement)) return clickable(element) ? "click" : "plain";
    if (["checkbox", "radio"].includes(element.type)) return "check";
    return ["button", "submit", "reset", "image"].includes(element.type) ? "click" : "field";
  }

  // What tells an element that has no text from others like it.
  function looks(info, element, what) {
    const words = element.id ? ["#" + element.id] : [];
    for (const name of element.id ? [] : element.classList) {
      if (!/^(ui-|has)/.test(name)) words.push("." + name);
    }
    if (["field", "check", "select"].includes(what)) return words.join(" ");
    const shape = element.matches(SHAPES);
    const color = shape ? getComputedStyle(element).fill : info.bgColor;
    const plain = /^(none|rgba\(0, 0, 0, 0\)|rgb\(255, 255, 255\))$/;
    if (!plain.test(color)) words.push(color.replaceAll(" ", ""));
    if (shape) words.push(`at ${middle(info).join(",")} size ${Math.round(info.width)}`);
    return words.join(" ");
  }

  const middle = (box) => [box.left + box.width / 2, box.top + box.height / 2].map(Math.round);

  function item(info) {
    const element = core.previousDOMInfo[info.ref];
    const what = kind(element);
    const label = element.labels && element.labels.length ? element.labels[0].textContent : "";
    const found = { ref: info.ref, tag: info.tag.toLowerCase(), kind: what, text: short(info.text) };
    if (what === "click" && !found.text) found.text = short(element.value || element.textContent);
    if (what === "field" || what === "check") found.label = short(label);
    if (what === "field") found.value = short(String(info.value ?? element.textContent));
    if (what === "check") found.checked = element.checked;
    if (what === "select") {
      found.text = "";
      found.options = Array.from(element.options, (option) => short(option.textContent));
      found.chosen = Array.from(element.selectedOptions, (option) => short(option.textContent));
    }
    if (!found.text && !found.label) found.looks = looks(info, element, what);
    if (info.focused && what !== "plain") found.focused = true;
    return found;
  }

  function collect(info, items) {
    if (items.length >= MOST_ITEMS) return;
    const element = core.previousDOMInfo[info.ref];
    if (element === undefined) {  // a piece of text among elements
      items.push({ ref: 0, tag: "t", kind: "plain", text: short(info.text) });
      return;
    }
    if (getComputedStyle(element).visibility === "hidden") return;
    const what = item(info);
    const leaf = !info.children.length || what.kind === "field" || what.kind === "select";
    if (what.kind !== "plain" || what.text || (leaf && element.matches(SHAPES))) items.push(what);
    const whole = what.kind === "click" && !info.text && !info.children.some(hasOwn);
    if (!leaf && !whole) info.children.forEach((child) => collect(child, items));
  }

  // Something in it that can be acted on by itself.
  function hasOwn(info) {
    const element = core.previousDOMInfo[info.ref];
    return element !== undefined && (kind(element) !== "plain" || info.children.some(hasOwn));
  }

  function seen() {
    const answer = {
      here: window.tuftEpisode === true && typeof core !== "undefined",
      done: false, reward: 0, reason: null, items: [],
    };
    if (!answer.here) return answer;
    answer.done = WOB_DONE_GLOBAL;
    answer.reward = WOB_RAW_REWARD_GLOBAL;
    answer.reason = WOB_REWARD_REASON === null ? null : String(WOB_REWARD_REASON);
    if (!answer.done) collect(core.getDOMInfo(), answer.items);
    return answer;
  }

  // After timers of no delay, and one frame, the page has done what an action led to.
  const settled = () => new Promise((done) => setTimeout(() => setTimeout(done)));

  const one = (ref) => {
    const element = core.previousDOMInfo[ref];
    return element && element.isConnected ? element : null;
  };

  window.tuft = {
    async begin(seed, mode, time) {
      await loaded;
      if (core.EP_TIMER !== null) core.endEpisode(0);
      if (document.activeElement) document.activeElement.blur();
      core.EPISODE_MAX_TIME = time;
      Math.seedrandom(seed);
      core.setDataMode(mode);
      core.startEpisodeReal();
      while (!WOB_TASK_READY) await new Promise((go) => setTimeout(go, 10));
      window.tuftEpisode = true;
      await settled();
      const said = core.getUtterance();
      const utterance = typeof said === "object" ? said.utterance : said;
      const fields = typeof said === "object" ? Object.values(said.fields || {}).map(String) : [];
      return { utterance: utterance.replace(/\s+/g, " ").trim(), fields, ...seen() };
    },

    async seen() { await settled(); return seen(); },

    // Where the action needs the mouse or the keyboard, the answer says where.
    click(ref) {
      const element = one(ref);
      if (element) core.elementClick(ref);
      return Boolean(element);
    },

    focus(ref) {
      const element = one(ref);
      if (!element) return false;
      element.click();
      element.focus();
      if (element.select) element.select();
      else if (element.isContentEditable) getSelection().selectAllChildren(element);
      return true;
    },

    select(ref, text) {
      const element = one(ref);
      if (!(element instanceof HTMLSelectElement)) return false;
      const option = Array.from(element.options).find((each) => short(each.textContent) === text);
      if (!option) return false;
      if (!element.multiple) option.selected = true;
      else option.selected = !option.selected;
      for (const type of ["input", "change"]) {
        element.dispatchEvent(new Event(type, { bubbles: true }));
      }
      return true;
    },

    place(ref) {
      const element = one(ref);
      if (!element) return null;
      element.scrollIntoView({ block: "nearest", inline: "nearest" });
      return middle(element.getBoundingClientRect());
    },
  };
})();
