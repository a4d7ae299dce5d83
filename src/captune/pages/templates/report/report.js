"use strict";
(() => {
  const FIRST = 24, STEP = 48, PRINTED = 200, LONG = 40;
  const made = (tag, name, text) => {
    const one = document.createElement(tag);
    if (name) one.className = name;
    if (text !== undefined) one.textContent = text;
    return one;
  };
  const number = (value) => value.toFixed(3).replace("-", "\u2212");
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const json = (element) => JSON.parse(element.textContent);

  // every image is in the file once: on a card, or as text for the galleries
  const images = new Map();
  for (const one of document.querySelectorAll("script.image-data, img[data-image]")) {
    if (!images.has(one.dataset.image)) images.set(one.dataset.image, one);
  }
  const source = (image) => {
    const one = images.get(String(image));
    if (!one) return null;
    return one.src || `data:image/jpeg;base64,${one.textContent}`;
  };

  function card(item, tags) {
    const li = made("li", "image");
    const src = item.image === null ? null : source(item.image);
    if (item.words) {
      if ((item.text || item.words).length > LONG) li.classList.add("long");
      li.append(...look(item, src));
      if (src) li.append(made("div", "maps"));
      li.printed = () => src && li.lastChild.replaceChildren(...item.words.map((word) => onPaper(item, src, word)));
      return li;
    }
    if (src) {
      const img = made("img");
      img.src = src;
      img.alt = item.name;
      img.decoding = "async";
      li.append(img);
    } else if (item.image !== null) {
      li.append(made("p", "gone", "the image is no longer there"));
    }
    const said = made("div", "said");
    if (typeof item.right === "boolean") {
      li.classList.add(item.right ? "good" : "bad");
      const above = made("p", "above");
      above.append(made("strong", "", item.right ? "right" : "wrong"));
      if (!item.right) above.append(made("small", "", `truth: ${item.truth}`));
      said.append(above);
    }
    for (const [tag, caption, scores] of item.lines || []) {
      const line = made("p", "caption");
      line.dir = "auto";
      if (tags.length > 1) line.append(made("span", "tag", tags[tag]), " ");
      line.append(caption);
      said.append(line);
      const told = Object.entries(scores);
      if (told.length) {
        const row = made("p", "scores");
        for (const [name, value] of told) row.append(made("span", "", `${name} ${number(value)}`), " ");
        said.append(row);
      }
    }
    if (item.bars) {
      const list = made("ol", "bars");
      for (const [name, share, tone] of item.bars) {
        const row = made("li", tone);
        const track = made("span", "track");
        const fill = made("i");
        fill.style.width = `${100 * share}%`;
        track.append(fill);
        track.setAttribute("aria-hidden", "true");
        row.append(made("span", "name", name), " ", made("span", "value", percent(share)), track);
        list.append(row);
      }
      said.append(list);
    }
    if (item.references && item.references.length) {
      const fold = made("details", "references");
      const list = made("ul");
      for (const text of item.references) {
        const one = made("li", "", text);
        one.dir = "auto";
        list.append(one);
      }
      fold.append(made("summary", "", `${item.references.length} by people`), list);
      said.append(fold);
    }
    if (item.read) said.append(made("p", "scores", `read before: ${item.read}`));
    said.append(made("p", "file", item.name));
    li.append(said);
    return li;
  }

  // matplotlib's magma at nine places
  const MAGMA = [[0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122],
    [229, 80, 100], [251, 135, 97], [254, 194, 135], [252, 253, 191]];
  const COLOUR = 0.64, FINER = 8;
  /** Where the pixels of an axis lie between the middles of its patches, as in Frame.over_image. */
  const between = (patches) => Array.from({ length: FINER * patches }, (_, i) => {
    const at = Math.min(patches - 1, Math.max(0, (i + 0.5) / FINER - 0.5));
    const low = Math.min(patches - 1, Math.floor(at)), x = at - low;
    return [low, Math.min(patches - 1, low + 1), x * x * (3 - 2 * x)];
  });
  function heat(canvas, grid, map) {
    const [rows, columns] = map ? grid : [0, 0];
    const bytes = atob(map);
    const down = between(rows), across = between(columns);
    canvas.width = across.length;
    canvas.height = down.length;
    if (!map) return;
    const pixels = new ImageData(canvas.width, canvas.height);
    const value = (row, [left, right, x]) => (1 - x) * bytes.charCodeAt(row * columns + left)
      + x * bytes.charCodeAt(row * columns + right);
    let i = 0;
    for (const [above, below, y] of down) {
      for (const place of across) {
        const share = ((1 - y) * value(above, place) + y * value(below, place)) / 255;
        const at = share * (MAGMA.length - 1);
        const low = Math.min(MAGMA.length - 2, Math.floor(at));
        for (let c = 0; c < 3; c += 1) {
          pixels.data[i + c] = MAGMA[low][c] + (at - low) * (MAGMA[low + 1][c] - MAGMA[low][c]);
        }
        pixels.data[i + 3] = 255 * COLOUR;
        i += 4;
      }
    }
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  }

  /** An image below a canvas for its maps. */
  function framed(item, src) {
    const canvas = made("canvas");
    canvas.setAttribute("aria-hidden", "true");
    const img = made("img");
    img.src = src;
    img.alt = item.name;
    const [left, top, right, bottom] = item.frame || [0, 0, 1, 1];
    canvas.style.left = `${100 * left}%`;
    canvas.style.top = `${100 * top}%`;
    canvas.style.width = `${100 * (right - left)}%`;
    canvas.style.height = `${100 * (bottom - top)}%`;
    const frame = made("span");
    frame.append(img, canvas);
    return frame;
  }

  /** An image whose words can be looked at: hovered over, tabbed to, or tapped to stay. */
  function look(item, src) {
    const box = made("div", "look");
    box.append(src ? framed(item, src) : made("p", "gone", "the image is no longer there"));
    const canvas = box.querySelector("canvas");
    const said = made("div", "said");
    const line = made("p", "words");
    line.dir = "auto";
    const told = made("p", "told", " ");
    told.setAttribute("role", "status");
    let kept = null;
    const show = (button, word) => {
      box.classList.toggle("seen", Boolean(word));
      told.textContent = word ? `${word.word}: ${word.says}` : " ";
      if (word && src) heat(canvas, item.grid, word.map);
    };
    const rest = () => (kept ? show(kept.button, kept.word) : show(null, null));
    for (const part of item.text || item.words) {
      if (part !== ".") line.append(" ");
      if (typeof part === "string") {
        line.append(part);
        continue;
      }
      const word = item.text ? item.words[part] : part;
      const button = made("button", word.good ? "word good" : "word");
      button.type = "button";
      button.append(word.word);
      if (word.mark) button.append(made("span", "mark", word.good ? "\u25cf" : "\u25cb"));
      if (word.mark) button.setAttribute("aria-label", `${word.word}, ${word.says}`);
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("mouseenter", () => show(button, word));
      button.addEventListener("focus", () => show(button, word));
      button.addEventListener("mouseleave", rest);
      button.addEventListener("blur", rest);
      button.addEventListener("click", () => {
        if (kept) kept.button.setAttribute("aria-pressed", "false");
        kept = kept && kept.button === button ? null : { button, word };
        button.setAttribute("aria-pressed", String(Boolean(kept)));
        show(button, word);
      });
      line.append(button);
    }
    said.append(line, told);
    if (item.read) said.append(made("p", "scores", `read before: ${item.read}`));
    said.append(made("p", "file", item.name));
    return [box, said];
  }

  /** A word's map beside its word, for paper, on which nothing is hovered over. */
  function onPaper(item, src, word) {
    const one = made("div", "look seen");
    const frame = framed(item, src);
    heat(frame.querySelector("canvas"), item.grid, word.map);
    one.append(frame, made("p", "", word.mark ? `${word.word} ${word.good ? "\u25cf" : "\u25cb"}` : word.word));
    return one;
  }

  function words(item) {
    const said = [item.name, item.truth || "", item.caption || ""];
    for (const line of item.lines || []) said.push(line[1]);
    for (const bar of (item.bars || []).slice(0, 1)) said.push(bar[0]);
    return said.concat(item.references || []).join("\n").toLowerCase();
  }

  function labelled(text, control, name) {
    const label = made("label", name || "", text);
    label.append(control);
    return label;
  }

  function choice(labels) {
    const select = made("select");
    labels.forEach((label, i) => {
      const one = made("option", "", label);
      one.value = i;
      select.append(one);
    });
    return select;
  }

  function gallery(root) {
    const { items, tags, sorts, filters } = json(root.querySelector("script.items"));
    const tools = root.querySelector(".tools");
    const grid = root.querySelector(".grid");
    const more = root.querySelector(".more");
    const noun = root.dataset.noun;
    const search = made("input");
    search.type = "search";
    const sort = choice(sorts.map((one) => one.label));
    const show = choice(["all", ...filters.map((one) => one.label)]);
    const told = made("output");
    tools.append(labelled("Search", search, "search"), labelled("Sort by", sort));
    if (filters.length) tools.append(labelled("Show", show));
    tools.append(told);
    tools.hidden = false;
    let texts = null;
    let order = [], shown = 0;
    const add = (count) => {
      for (const i of order.slice(shown, shown + count)) grid.append(card(items[i], tags));
      shown = Math.min(order.length, shown + count);
      more.hidden = shown >= order.length;
      more.textContent = `Show ${Math.min(STEP, order.length - shown)} more`;
    };
    const draw = () => {
      const by = sorts[Number(sort.value)];
      const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      texts = texts || items.map(words);
      const kept = show.value === "0" ? items.keys() : filters[Number(show.value) - 1].keep;
      order = [...kept].filter((i) => wanted.every((word) => texts[i].includes(word)));
      order.sort((a, b) => {
        const x = by.values[a], y = by.values[b];
        if (x === null || y === null) return (x === null) - (y === null) || a - b;
        return (by.down ? y - x : x - y) || a - b;
      });
      const all = order.length === items.length;
      told.textContent = `${order.length.toLocaleString("en")} ${noun}${order.length === 1 ? "" : "s"}`
        + (all ? "" : ` of ${items.length.toLocaleString("en")}`);
      grid.replaceChildren();
      shown = 0;
      add(FIRST);
    };
    let waiting;
    search.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(draw, 120);
    });
    sort.addEventListener("change", draw);
    show.addEventListener("change", draw);
    more.addEventListener("click", () => {
      const next = shown;
      add(STEP);
      // the keyboard goes on where the new images begin
      const first = grid.children[next];
      if (first) {
        first.tabIndex = -1;
        first.focus({ preventScroll: true });
      }
    });
    draw();
    // all of it on paper, or the beginning of very many; then what was shown before
    let before = 0;
    const rest = made("p", "soft rest");
    root.append(rest);
    addEventListener("beforeprint", () => {
      before = shown;
      add(Math.max(0, PRINTED - shown));
      const left = order.length - shown;
      rest.textContent = left ? `and ${left.toLocaleString("en")} more, which are not printed` : "";
      for (const one of grid.children) if (one.printed) one.printed();
    });
    addEventListener("afterprint", () => {
      while (grid.children.length > before) grid.lastChild.remove();
      shown = before;
      add(0);
    });
  }
  // at once, not when a reader comes to them: what grows above a heading moves it away from its link
  for (const root of document.querySelectorAll(".browse")) gallery(root);

  // headings that are arrived at stand below the navigation, however many lines it has
  const contents = document.querySelector(".contents");
  new ResizeObserver(() => {
    document.documentElement.style.scrollPaddingTop = `${contents.offsetHeight + 16}px`;
    document.documentElement.style.setProperty("--above", `${contents.offsetHeight}px`);
  }).observe(contents);

  function save(name, text) {
    const link = made("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  for (const figure of document.querySelectorAll("figure.table")) {
    const name = `${figure.dataset.name}.csv`;
    const button = made("button", "", "CSV");
    button.type = "button";
    button.setAttribute("aria-label", `Save the table ${figure.querySelector("figcaption").textContent} as CSV`);
    button.addEventListener("click", () => save(name, json(figure.querySelector("script.csv"))));
    figure.querySelector("figcaption").append(button);
  }
  for (const code of document.querySelectorAll(".code")) {
    if (!navigator.clipboard) break;
    const button = made("button", "", "Copy");
    button.type = "button";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(code.querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    code.append(button);
  }
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details.fold:not([open])")];
    for (const fold of folded) fold.open = true;
  });
  addEventListener("afterprint", () => {
    for (const fold of folded) fold.open = false;
  });
})();
