"use strict";
(() => {
  // results replace each other: a bar grows from where the last one of its name ended
  const widths = new Map();
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const grow = (bar) => {
    const name = bar.dataset.bar, now = bar.style.width, before = widths.get(name);
    widths.set(name, now);
    if (still.matches || before === now) return;
    bar.animate([{ width: before || "0%" }, { width: now }], { duration: 350, easing: "ease-out" });
  };
  new MutationObserver((changes) => {
    if (widths.size > 20000) widths.clear();
    if (removed) refocus();
    seek();
    // the framework's name for the button is none of the words that stand on it
    for (const one of document.querySelectorAll(".upload-container[aria-label]")) one.removeAttribute("aria-label");
    for (const change of changes) {
      for (const node of change.addedNodes) {
        if (node.nodeType !== 1) continue;
        if (node.matches("[data-bar]")) grow(node);
        node.querySelectorAll("[data-bar]").forEach(grow);
      }
    }
  }).observe(document, { childList: true, subtree: true });

  // who removes an image by keyboard goes on at the next one
  let removed = null;
  document.addEventListener("click", (event) => {
    const button = event.target.closest ? event.target.closest(".cap [data-remove]") : null;
    if (!button) return;
    const place = button.closest("[id^=strip-]");
    const all = [...place.querySelectorAll("[data-remove]")];
    // it is disabled already, as those are whose removal is on its way
    const left = all.filter((one) => !one.disabled);
    const before = left.filter((one) => all.indexOf(one) < all.indexOf(button));
    removed = { place, number: before.length, left: left.length };
  });
  const refocus = () => {
    const all = removed.place.querySelectorAll("[data-remove]");
    if (all.length !== removed.left) return;
    // not where the focus went on meanwhile
    const at = document.activeElement;
    const stayed = !at || at === document.body || removed.place.contains(at);
    if (all.length && stayed) all[Math.min(removed.number, all.length - 1)].focus();
    removed = null;
  };

  // on a phone the results come below the fields; they grow while they are looked at
  let sought = null;
  const seek = () => {
    if (sought && sought.getBoundingClientRect().top > innerHeight * 0.4) {
      sought.scrollIntoView({ behavior: still.matches ? "auto" : "smooth" });
    }
  };
  document.addEventListener("click", ({ target, isTrusted }) => {
    const button = isTrusted && target.closest ? target.closest("button[id]") : null;
    sought = button && document.getElementById(`result-${button.id}`);
    seek();
  });
  // not against somebody who scrolls: by wheel, touch, scrollbar or keys
  for (const own of ["wheel", "pointerdown", "keydown"]) addEventListener(own, () => { sought = null; });

  // the framework tells of every change of a text but the one to no text
  document.addEventListener("input", ({ target }) => {
    if (!target.matches("#labels textarea, #prompts textarea") || target.value) return;
    setTimeout(() => { if (!target.value) document.querySelector("#classify").click(); }, 50);
  });

  // a word shows its map: hovered over, tabbed to, or tapped to stay
  const wordOf = (event) => (event.target.closest ? event.target.closest(".cap .word") : null);
  const show = (card, word) => {
    for (const map of card.querySelectorAll(".map")) {
      map.hidden = !word || map.dataset.map !== word.dataset.word;
    }
    card.classList.toggle("seen", Boolean(word));
    const told = card.querySelector(".told");
    if (told) told.textContent = word ? word.dataset.says : "\u00a0";
  };
  const look = (event) => {
    const word = wordOf(event);
    if (word) show(word.closest(".card"), word);
  };
  const rest = (event) => {
    const word = wordOf(event);
    if (!word) return;
    const card = word.closest(".card");
    show(card, card.querySelector('.word[aria-pressed="true"]'));
  };
  document.addEventListener("mouseover", look);
  document.addEventListener("focusin", look);
  document.addEventListener("mouseout", rest);
  document.addEventListener("focusout", rest);

  document.addEventListener("click", async (event) => {
    const word = wordOf(event);
    if (word) {
      const card = word.closest(".card");
      const pressed = word.getAttribute("aria-pressed") === "true";
      for (const one of card.querySelectorAll(".word")) one.setAttribute("aria-pressed", "false");
      word.setAttribute("aria-pressed", String(!pressed));
      show(card, pressed ? null : word);
      return;
    }
    const copy = event.target.closest ? event.target.closest(".cap [data-copy]") : null;
    if (copy) {
      const text = copy.parentElement.querySelector("code").textContent;
      try {
        await navigator.clipboard.writeText(text);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(copy.parentElement.querySelector("code"));
        copy.textContent = "Selected";
      }
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    }
  });
})();
