"use strict";
// Draws the figures of the page from the JSON in #figures; figures.py says what is in them.
// A trace's `meta` names its policy, `role: "ink"` a line in the colour of text, `color` the hue of a heat map, and `log` a map of
// counts in which each tenfold is one step of colour.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const hidden = new Set();
  const shown = {}; // figure -> the policy it is switched to
  const root = document.documentElement;
  root.dataset.errors = "0";
  addEventListener("error", () => { root.dataset.errors = String(Number(root.dataset.errors) + 1); });

  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const screenTheme = () => ({ ink: css("--ink"), soft: css("--soft"), rule: css("--rule"), card: css("--card"), sans: css("--sans") });
  const paperTheme = () => ({ ink: "#1c1e21", soft: "#50545a", rule: "#dddddd", card: "#ffffff", sans: "Helvetica, Arial, sans-serif" });

  function dressed(figure, theme) {
    const spec = figure.specs[shown[figure.id]];
    const axis = { gridcolor: theme.rule, linecolor: theme.rule, zerolinecolor: theme.rule, tickcolor: theme.rule, ticks: "", automargin: true,
                   hoverformat: ",.4~g" };
    const dress = (own) => ({ ...axis, ...own, title: { ...(own || {}).title, font: { size: 12.5, color: theme.soft }, standoff: 8 } });
    const data = spec.data.map((trace) => ({
      ...trace,
      visible: !hidden.has(trace.meta),
      ...(trace.role === "ink" && { line: { ...trace.line, color: theme.soft } }),
      ...(trace.log && { text: trace.z, z: trace.z.map((row) => row.map((count) => (count ? Math.log10(count) : null))) }),
      ...(trace.type === "heatmap" && { colorscale: [[0, theme.card], [1, trace.color]] }),
    }));
    const layout = {
      font: { family: theme.sans, size: 12, color: theme.soft },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 56, r: 22, t: 26, b: 48 }, modebar: { bgcolor: "rgba(0,0,0,0)", color: theme.rule, activecolor: theme.soft }, showlegend: false, hovermode: "x unified",
      hoverlabel: { bgcolor: theme.card, bordercolor: theme.rule, font: { color: theme.ink, family: theme.sans, size: 12 } },
      ...spec.layout, xaxis: dress(spec.layout.xaxis), yaxis: dress(spec.layout.yaxis),
    };
    return { data, layout };
  }

  const config = (figure) => ({
    responsive: true, displaylogo: false, displayModeBar: "hover", modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg", filename: `trainmaster-${figure.id}` },
  });
  const plot = (figure) => document.getElementById(`plot-${figure.id}`);

  function draw(figure) {
    const { data, layout } = dressed(figure, screenTheme());
    if (layout.height) plot(figure).style.height = `${layout.height}px`;
    return Plotly.react(plot(figure), data, layout, config(figure));
  }

  function download(figure) { // for paper: light, with a legend and a title
    const { data, layout } = dressed(figure, paperTheme());
    const box = plot(figure).getBoundingClientRect();
    const policy = shown[figure.id];
    const title = { text: policy ? `${figure.title} · ${figure.names[policy]}` : figure.title, x: 0.02, font: { size: 16, color: "#1c1e21" } };
    const full = { ...layout, title, showlegend: !policy, legend: { orientation: "h", y: -0.2 }, margin: { ...layout.margin, t: 48 },
                   paper_bgcolor: "#ffffff" };
    Plotly.downloadImage({ data, layout: full }, { format: "svg", width: Math.round(box.width), height: Math.round(box.height) + 70,
                                                   filename: `trainmaster-${figure.id}` });
  }

  for (const figure of figures) {
    shown[figure.id] = Object.keys(figure.specs)[0];
    const box = document.getElementById(`figure-${figure.id}`);
    box.querySelector(".svg").addEventListener("click", () => download(figure));
    const note = box.querySelector("[data-note]");
    const say = () => { if (note) note.textContent = figure.specs[shown[figure.id]].note || ""; };
    const buttons = [...box.querySelectorAll(".switch button")];
    for (const button of buttons) {
      button.addEventListener("click", () => {
        shown[figure.id] = button.dataset.policy;
        for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
        say();
        draw(figure);
      });
    }
    say();
  }

  for (const button of document.querySelectorAll("nav button")) {
    button.addEventListener("click", () => {
      const policy = button.dataset.policy;
      if (!hidden.delete(policy)) hidden.add(policy);
      button.setAttribute("aria-pressed", String(!hidden.has(policy)));
      for (const figure of figures) if ("" in figure.specs) draw(figure);
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => figures.forEach(draw));

  // One figure a turn: the page can be read and scrolled while the rest is drawn.
  const waiting = [...figures];
  const next = () => {
    const figure = waiting.shift();
    if (!figure) { root.dataset.drawnMs = String(Math.round(performance.now())); return; }
    Promise.resolve(draw(figure)).finally(() => setTimeout(next, 0));
  };
  next();
})();
