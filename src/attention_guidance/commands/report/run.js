"use strict";
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = id => document.getElementById(id);
  const number = (value, digits = 2) => value === null || value === undefined ? "–" : value.toFixed(digits);
  const colour = index => `var(--series${index % 7 + 1})`;

  function add(parent, name, attributes = {}, style = "") {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.style.cssText = style;
    return parent.appendChild(node);
  }

  document.documentElement.classList.add("js");

  // Curves: a read-out that follows the pointer or the slider.
  for (const figure of document.querySelectorAll(".chart")) {
    const chart = data.charts[Number(figure.dataset.chart)];
    const slider = figure.querySelector("input"), output = figure.querySelector("output");
    const svgs = figure.querySelectorAll("svg");

    const draw = (svg, index) => {
      svg.querySelector(".cursor")?.remove();
      const box = svg.querySelector("[data-part=plot]").getBBox();
      if (!box.width) return;
      const x = box.x + box.width * (chart.steps[index] - chart.x[0]) / (chart.x[1] - chart.x[0]);
      const group = add(svg, "g", { class: "cursor" }, "pointer-events: none");
      add(group, "line", { x1: x, x2: x, y1: box.y, y2: box.y + box.height }, "stroke: var(--muted); stroke-width: 0.8");
      chart.series.forEach((series, place) => {
        if (series.values[index] === null) return;
        const y = box.y + box.height * (chart.y[1] - series.values[index]) / (chart.y[1] - chart.y[0]);
        add(group, "circle", { cx: x, cy: y, r: 4 },
          `fill: ${colour(chart.numbers[place])}; stroke: var(--surface); stroke-width: 1.5`);
      });
    };
    const show = index => {
      const parts = [`step ${chart.steps[index].toLocaleString("en")}: `];
      chart.series.forEach((series, place) => {
        if (series.values[index] === null) return;
        const word = document.createElement("span");
        word.textContent = `${series.name} ${number(series.values[index], 3)}`;
        word.style.cssText = `color: ${colour(chart.numbers[place])}; font-weight: 600`;
        parts.push(parts.length > 1 ? ", " : "", word);
      });
      output.replaceChildren(...parts);
      slider.setAttribute("aria-valuetext", output.textContent);
      svgs.forEach(svg => draw(svg, index));
    };
    const nearest = (svg, event) => {
      const box = svg.querySelector("[data-part=plot]").getBoundingClientRect();
      const step = chart.x[0] + (chart.x[1] - chart.x[0]) * (event.clientX - box.left) / box.width;
      let best = 0;
      chart.steps.forEach((one, index) => {
        if (Math.abs(one - step) < Math.abs(chart.steps[best] - step)) best = index;
      });
      return best;
    };
    slider.addEventListener("input", () => show(Number(slider.value)));
    svgs.forEach(svg => svg.addEventListener("pointermove", event => {
      slider.value = nearest(svg, event);
      show(Number(slider.value));
    }));
  }

  // The census: cells change with the step of training.
  const steps = [...new Set(data.census.flatMap(run => run.snapshots.map(taken => taken.step)))]
    .filter(step => step !== null).sort((a, b) => a - b);
  const shown = data.census.map(run => run.snapshots.length - 1);
  const cards = [...document.querySelectorAll(".census")];
  const cells = cards.map(card => [...card.querySelectorAll("button")]);

  // The look of a head that follows no pattern is no pattern's.
  const inkOf = (run, taken, head, none) => taken.follows[head] < 0 ? none : colour(run.colours[taken.follows[head]]);
  const short = value => value === null ? "–" : value.toFixed(2).replace(/^0/, "").slice(0, 3);

  function strongest(run, taken, head) {
    const masses = taken.masses[head];
    let best = taken.follows[head];
    if (best < 0) masses.forEach((mass, index) => { if (mass !== null && (best < 0 || mass > masses[best])) best = index; });
    return best;
  }

  function paint(number) {
    const run = data.census[number], taken = run.snapshots[shown[number]], card = cards[number];
    card.querySelector(".at").textContent = taken.name + (taken.loss === null ? "" : `, validation loss ${number_(taken.loss)}`);
    const names = [...run.patterns, "none"];
    card.querySelector(".shares").textContent = taken.shares
      .map((share, index) => share ? `${names[index]} ${Math.round(100 * share)} %` : "").filter(Boolean).join(", ");
    cells[number].forEach((cell, head) => {
      const best = strongest(run, taken, head);
      const mass = best < 0 ? null : taken.masses[head][best];
      cell.style.setProperty("--c", inkOf(run, taken, head, "transparent"));
      cell.style.setProperty("--m", `${Math.round(75 * (mass ?? 0))}%`);
      cell.textContent = short(mass);
      cell.classList.toggle("faint", taken.follows[head] < 0);
      cell.setAttribute("aria-label", describe(run, taken, head));
    });
  }
  const number_ = value => number(value, 2);

  function describe(run, taken, head) {
    const [layer, place] = run.heads[head], best = strongest(run, taken, head);
    const does = best < 0 ? "" : `${taken.follows[head] >= 0 ? "follows" : "most on"} ${run.patterns[best]}, `;
    const guided = run.guided[head] ? `, guided toward ${run.guided[head]}` : "";
    return `layer ${layer} head ${place}: ${does}mass ${number_(best < 0 ? null : taken.masses[head][best])}${guided}`;
  }

  function detail(number, head) {
    const run = data.census[number], taken = run.snapshots[shown[number]], [layer, place] = run.heads[head];
    const masses = run.patterns.map((name, index) => `${name} ${number_(taken.masses[head][index])}`).join(", ");
    const guided = run.guided[head] ? `; guided toward ${run.guided[head]}` : "";
    cards[number].querySelector(".detail").textContent =
      `Layer ${layer}, head ${place}: ${masses}; entropy ${number_(taken.entropy[head])} nats${guided}.`;
  }

  cells.forEach((buttons, number) => buttons.forEach((button, head) => {
    button.addEventListener("pointerenter", () => detail(number, head));
    button.addEventListener("focus", () => detail(number, head));
    button.addEventListener("click", () => look && look.choose(number, ...data.census[number].heads[head]));
  }));

  // Heads in the plane say on hover which they are.
  for (const figure of document.querySelectorAll(".plane")) {
    const run = data.census[Number(figure.dataset.run)], taken = run.snapshots[run.snapshots.length - 1];
    run.heads.forEach(([layer, place], head) => {
      const mark = figure.querySelector(`[data-part="head-${layer}-${place}"]`);
      if (mark) add(mark, "title").textContent = describe(run, taken, head);
    });
  }

  // One stop of the tab key for each grid; arrows go from head to head.
  cells.forEach((buttons, number) => {
    const width = 1 + Math.max(...data.census[number].heads.map(head => head[1]));
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -width, ArrowDown: width };
    buttons.forEach((button, head) => {
      button.tabIndex = head ? -1 : 0;
      button.addEventListener("keydown", event => {
        const next = buttons[head + (moves[event.key] ?? NaN)];
        if (!next) return;
        event.preventDefault();
        buttons.forEach(other => { other.tabIndex = other === next ? 0 : -1; });
        next.focus();
      });
    });
  });

  const training = at("training");
  if (training && steps.length > 1) {
    training.max = steps.length - 1;
    training.value = steps.length - 1;
    training.addEventListener("input", () => {
      const step = steps[Number(training.value)];
      at("training-step").textContent = `step ${step.toLocaleString("en")}`;
      training.setAttribute("aria-valuetext", at("training-step").textContent);
      data.census.forEach((run, number) => {
        let last = 0;
        run.snapshots.forEach((taken, index) => { if (taken.step === null || taken.step <= step) last = index; });
        if (last !== shown[number]) {
          shown[number] = last;
          paint(number);
        }
      });
    });
  }

  // A look through one head.
  let look = null;
  if (at("look-map")) {
    const selects = Object.fromEntries(["run", "sentence", "layer", "head"].map(name => [name, at(`look-${name}`)]));
    const bytes = new Map();
    let focus = -1;

    const options = (select, names) => {
      const before = select.value;
      select.replaceChildren(...names.map((name, index) => new Option(name, index)));
      select.value = names[Number(before)] === undefined || before === "" ? 0 : before;
    };
    const weights = () => {
      const run = Number(selects.run.value), place = Number(selects.sentence.value);
      const sentence = data.attention[run].sentences[place], key = `${run} ${place}`;
      if (!bytes.has(key)) bytes.set(key, Uint8Array.from(atob(sentence.maps), character => character.charCodeAt(0)));
      const size = sentence.tokens.length, heads = data.census[run].heads;
      const index = heads.findIndex(([layer, head]) => layer === Number(selects.layer.value) && head === Number(selects.head.value));
      const start = index * size * size, all = bytes.get(key);
      return { run, index, tokens: sentence.tokens, whole: sentence.whole, leftOut: sentence.leftOut, at: (row, column) => all[start + row * size + column] / 255 };
    };
    const fill = () => {
      const run = Number(selects.run.value), heads = data.census[run].heads;
      options(selects.sentence, data.attention[run].sentences.map(one => one.text.length > 60 ? `${one.text.slice(0, 59)}…` : one.text));
      options(selects.layer, Array.from({ length: 1 + Math.max(...heads.map(head => head[0])) }, (_, index) => `${index}`));
      options(selects.head, Array.from({ length: 1 + Math.max(...heads.map(head => head[1])) }, (_, index) => `${index}`));
    };
    const text = (svg, shown, place, attributes, style = "") => {
      const node = add(svg, "text", attributes, `fill: var(--ink); font: 11px var(--sans); ${style}`);
      node.textContent = shown.tokens[place];
      add(node, "title").textContent = shown.whole[place];
      return node;
    };
    const drawMap = (svg, shown, ink) => {
      const n = shown.tokens.length, cell = 15, margin = 92;
      svg.replaceChildren();
      svg.setAttribute("viewBox", `0 0 ${margin + n * cell + 6} ${margin + n * cell + 6}`);
      svg.style.width = `${margin + n * cell + 6}px`;
      add(svg, "rect", { x: margin, y: margin, width: n * cell, height: n * cell }, "fill: none; stroke: var(--rule)");
      for (let row = 0; row < n; row++) {
        const strong = row === focus ? "font-weight: 700" : "";
        text(svg, shown, row, { x: margin - 5, y: margin + row * cell + 11, "text-anchor": "end" }, strong);
        const x = margin + row * cell + 11, y = margin - 5;
        text(svg, shown, row, { x, y, transform: `rotate(-90 ${x} ${y})` });
        for (let column = 0; column < n; column++) {
          const weight = shown.at(row, column);
          if (weight < 0.004) continue;
          const mark = add(svg, "rect", { x: margin + column * cell, y: margin + row * cell, width: cell, height: cell },
            `fill: ${ink}; fill-opacity: ${Math.sqrt(weight).toFixed(3)}`);
          add(mark, "title").textContent = `${shown.whole[row]} → ${shown.whole[column]}: ${weight.toFixed(2)}`;
        }
      }
    };
    const drawLines = (svg, shown, ink) => {
      const n = shown.tokens.length, pitch = 18, left = 96, right = 236;
      svg.replaceChildren();
      svg.setAttribute("viewBox", `0 0 ${right + 96} ${n * pitch + 8}`);
      svg.style.width = `${right + 96}px`;
      const y = place => place * pitch + 16;
      for (let row = 0; row < n; row++) {
        if (focus >= 0 && row !== focus) continue;
        for (let column = 0; column < n; column++) {
          const weight = shown.at(row, column);
          if (weight < 0.02) continue;
          add(svg, "line", { x1: left + 4, x2: right - 4, y1: y(row) - 4, y2: y(column) - 4 },
            `stroke: ${ink}; stroke-width: ${focus >= 0 ? 2.4 : 1.8}; stroke-opacity: ${weight.toFixed(3)}`);
        }
      }
      shown.tokens.forEach((_, place) => {
        const chosen = place === focus;
        const word = text(svg, shown, place, { x: left, y: y(place), "text-anchor": "end", tabindex: 0, role: "button",
          "aria-pressed": chosen, "aria-label": `lines of ${shown.whole[place]}`, class: "word" }, chosen ? "font-weight: 700; cursor: pointer" : "cursor: pointer");
        const choose = () => {
          focus = chosen ? -1 : place;
          draw();
          svg.querySelectorAll(".word")[place].focus();
        };
        word.addEventListener("click", choose);
        word.addEventListener("keydown", event => {
          if (event.key === "Enter" || event.key === " ") {
            event.preventDefault();
            choose();
          }
        });
        const seen = focus >= 0 ? shown.at(focus, place) : 1;
        text(svg, shown, place, { x: right, y: y(place) }, `fill-opacity: ${Math.max(0.25, Math.min(1, focus >= 0 ? seen * 3 : 1))}`);
      });
    };
    const drawTable = shown => {
      const table = at("look-table");
      const row = (names, tag) => {
        const line = document.createElement("tr");
        line.replaceChildren(...names.map(name => Object.assign(document.createElement(tag), { textContent: name })));
        return line;
      };
      const lines = shown.whole.map((token, place) => {
        const order = shown.whole.map((_, column) => column).sort((a, b) => shown.at(place, b) - shown.at(place, a));
        return row([token, ...order.slice(0, 3).map(column => `${shown.whole[column]} ${number_(shown.at(place, column))}`)], "td");
      });
      table.replaceChildren(row(["token", "looks most at", "then at", "then at"], "th"), ...lines);
    };
    const draw = () => {
      const shown = weights(), run = data.census[shown.run], taken = run.snapshots[run.snapshots.length - 1];
      const ink = inkOf(run, taken, shown.index, "var(--ink)");
      const what = describe(run, taken, shown.index);
      at("look-what").textContent = what;
      at("look-left-out").hidden = !shown.leftOut;
      at("look-left-out").textContent = `The model does not take all of this text: its last ${shown.leftOut} tokens are left out.`;
      at("look-map").setAttribute("aria-label", `Attention map, ${what}`);
      at("look-lines").setAttribute("aria-label", `Attention as lines, ${what}`);
      drawMap(at("look-map"), shown, ink);
      drawLines(at("look-lines"), shown, ink);
      drawTable(shown);
      cells.forEach((buttons, number) => buttons.forEach((button, head) =>
        button.setAttribute("aria-pressed", number === shown.run && head === shown.index)));
    };
    options(selects.run, data.attention.map(run => run.name));
    fill();
    for (const [name, select] of Object.entries(selects)) select.addEventListener("change", () => {
      if (name === "run") fill();
      if (name === "run" || name === "sentence") focus = -1;
      draw();
    });
    // What is on the screen as a file of its own: the colours of the page's theme, nothing outside of it.
    const standalone = svg => {
      const copy = svg.cloneNode(true), theme = getComputedStyle(document.documentElement);
      const [, , width, height] = svg.getAttribute("viewBox").split(" ");
      for (const [key, value] of Object.entries({ width, height })) copy.setAttribute(key, value);
      copy.removeAttribute("style");
      copy.insertBefore(add(copy, "rect", { width, height }, "fill: var(--card)"), copy.firstChild);
      const markup = new XMLSerializer().serializeToString(copy);
      return markup.replace(/var\((--[\w-]+)\)/g, (_, name) => theme.getPropertyValue(name).trim().replaceAll('"', "'"));
    };
    const download = (blob, name) => {
      const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    };
    document.querySelectorAll("[data-save]").forEach(button => button.addEventListener("click", async () => {
      const svg = at(button.dataset.save), markup = standalone(svg);
      const run = data.attention[Number(selects.run.value)].name;
      const name = `${run}-${selects.layer.value}.${selects.head.value}-${button.dataset.save.slice(5)}.${button.dataset.form}`;
      if (button.dataset.form === "svg") return download(new Blob([markup], { type: "image/svg+xml" }), name);
      const image = new Image(), [, , width, height] = svg.getAttribute("viewBox").split(" ");
      image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(markup)}`;
      await image.decode();
      const canvas = Object.assign(document.createElement("canvas"), { width: 2 * width, height: 2 * height });
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob(blob => download(blob, name), "image/png");
    }));
    look = {
      choose(run, layer, head) {
        selects.run.value = run;
        fill();
        selects.layer.value = layer;
        selects.head.value = head;
        focus = -1;
        draw();
        const quick = matchMedia("(prefers-reduced-motion: reduce)").matches;
        at("look").scrollIntoView({ behavior: quick ? "auto" : "smooth", block: "start" });
      },
    };
    draw();
  }
}
