// A button in each head sorts a table by its column: up, then down; cells without a number stay last.
// What is returned sorts again, for a body with new rows.
function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  function sort() {
    const column = heads.findIndex((head) => head.ariaSort);
    if (column < 0) return;
    const sign = heads[column].ariaSort === "ascending" ? 1 : -1;
    const text = (row) => row.cells[column].textContent;
    const number = (row) => parseFloat(text(row).replaceAll(",", "").replace("−", "-"));
    const byText = (a, b) => sign * text(a).localeCompare(text(b), "en", {numeric: true});
    const byNumber = (a, b) => isNaN(number(a)) - isNaN(number(b)) || sign * (number(a) - number(b)) || 0;
    table.tBodies[0].append(
      ...[...table.tBodies[0].rows].sort(heads[column].classList.contains("text") ? byText : byNumber)
    );
  }
  heads.forEach((head) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const order = head.ariaSort === "ascending" ? "descending" : "ascending";
      heads.forEach((other) => { other.ariaSort = other === head ? order : null; });
      sort();
    });
  });
  return sort;
}

// The charts share their parameters: what a control or the pointer sets in one is set in all.
async function explore({views, datasets, attacks, best}) {
  const charts = [];
  const sortAttacks = sortable(document.querySelector("#panel table"));
  const set = (name, value, but) => {
    charts.filter((chart) => chart !== but).forEach((chart) => chart.signal(name, value).runAsync());
  };
  const control = (name) => document.querySelector(`[data-explore] [name="${name}"]`);

  function show(key) {
    const network = datasets.networks.find((one) => one.key === key);
    const panel = document.getElementById("panel");
    set("picked", key);
    set("dataset", network.dataset);
    control("picked").value = key;
    if (control("dataset")) control("dataset").value = network.dataset;
    if (datasets.searches.some((search) => search.row === network.row)) {
      set("row", network.row);
      if (control("row")) control("row").value = network.row;
    }
    for (const field of panel.querySelectorAll("[data-field]")) {
      const value = network[field.dataset.field];
      field.textContent = typeof value === "number" ? value.toLocaleString("en") : value;
    }
    document.getElementById("picked-architecture").hidden = !network.layers;
    const body = panel.querySelector("tbody");
    body.replaceChildren();
    for (const [attack, accuracy] of network.accuracies) {
      const row = body.insertRow();
      row.insertCell().textContent = attacks[attack];
      row.insertCell().textContent = accuracy;
      row.cells[0].className = "text";
    }
    sortAttacks();
  }

  function apply(input) {
    const steps = input.dataset.values && JSON.parse(input.dataset.values);
    const value = steps ? steps[input.value] : input.type === "range" ? Number(input.value) : input.value;
    if (input.name === "picked") return show(value);
    if (input.name === "dataset") return show(best[value]);
    set(input.name, value);
    const output = input.parentElement.querySelector("output");
    if (output) output.textContent = value.toLocaleString("en");
    if (steps) input.ariaValueText = value.toLocaleString("en");
    if (input.name === "colour_by") {
      document.querySelectorAll("[data-legend]").forEach((one) => { one.hidden = one.dataset.legend !== value; });
    }
  }

  document.querySelectorAll("[data-explore]").forEach((section) => { section.hidden = false; });
  for (const {id, spec} of views) {
    // 1: errors alone; Vega warns of layers without points, too
    const options = {mode: "vega-lite", renderer: "svg", actions: false, logLevel: 1};
    const {view} = await vegaEmbed(`#${id}`, {...spec, datasets: structuredClone(datasets)}, options);
    for (const type of ["mouseover", "click"]) {
      view.addEventListener(type, (event, item) => { if (item?.datum?.key) show(item.datum.key); });
    }
    const box = spec.params.find((one) => one.select)?.name;
    if (box) view.addSignalListener(box, (name, value) => set(name, value, view));
    document.querySelectorAll(`#${id} [class*="_brush"]`).forEach((mark) => { mark.ariaHidden = "true"; });
    charts.push(view);
  }
  document.querySelectorAll("[data-explore] [name]").forEach((input) => {
    input.addEventListener("input", () => apply(input));
    if (input.type === "range" || input.name === "colour_by") apply(input);
  });
  show(Object.values(best)[0]);
  document.documentElement.dataset.ready = "";
}

document.querySelectorAll("table.sortable:has(tbody tr + tr)").forEach(sortable);
window.addEventListener("beforeprint", () => {
  document.querySelectorAll("details:not([open])").forEach((one) => { one.open = true; });
});
if (document.getElementById("data")) explore(JSON.parse(document.getElementById("data").textContent));
