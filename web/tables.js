// The panel "D-ODE tables": every table and profile there is, what fits the last run, and delete,
// rename, export. All text is put in as text: table files are shared, and may say anything.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const STYLE = `
.dode-tables { padding: 8px; overflow: auto; height: 100%; box-sizing: border-box;
    font: 13px/18px sans-serif; color: var(--input-text, #ddd); }
.dode-tables .dode-bar { display: flex; gap: 6px; margin-bottom: 8px; }
.dode-tables input { flex: 1; min-width: 0; padding: 4px 8px; border-radius: 6px; border: 0;
    background: var(--comfy-input-bg, #222); color: inherit; }
.dode-tables button { padding: 2px 8px; border-radius: 6px; border: 0; cursor: pointer;
    background: var(--comfy-input-bg, #222); color: inherit; }
.dode-tables .dode-entry { padding: 8px; margin-bottom: 6px; border-radius: 6px;
    background: var(--comfy-menu-bg, #2a2a2a); overflow-wrap: anywhere; }
.dode-tables .dode-title { font-weight: 600; }
.dode-tables .dode-fits { color: #6fbf73; }
.dode-tables .dode-small { opacity: 0.7; font-size: 12px; }
.dode-tables .dode-said { white-space: pre-wrap; margin-bottom: 8px; }
`;
const FITS = {
    used: "used by the last run",
    "any steps": "fits the last run",
    exact: "fits the last run exactly",
    slice: "fits the last run: a part of it",
    "carried over": "fits the last run, on its own noise levels",
    interpolated: "near the last run's steps",
};
const MOST = 300; // lines; the search narrows them down

function element(parent, kind, name, text) {
    const made = document.createElement(kind);
    if (name) made.className = name;
    if (text) made.textContent = text;
    parent.append(made);
    return made;
}

class Panel {
    constructor(root) {
        this.entries = [];
        root.replaceChildren();
        const box = element(root, "div", "dode-tables");
        box.dataset.testid = "dode-tables";
        const bar = element(box, "div", "dode-bar");
        this.search = element(bar, "input");
        this.search.placeholder = "Search: model, steps, cfg, file";
        this.search.addEventListener("input", () => this.draw());
        element(bar, "button", "", "Refresh").addEventListener("click", () => this.load());
        this.said = element(box, "div", "dode-said");
        this.list = element(box, "div");
        this.load();
    }

    async load() {
        try {
            const answer = await api.fetchApi("/dode/tables");
            this.entries = (await answer.json()).tables;
        } catch (error) {
            this.said.textContent = `The list did not come: ${error.message}`;
        }
        this.draw();
    }

    draw() {
        this.list.replaceChildren();
        const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
        const line = (e) => `${e.title} ${e.worth} ${e.model} ${e.file}`.toLowerCase();
        const rank = (e) => (e.serves === "used" ? 0 : e.serves ? 1 : 2);
        const shown = this.entries
            .filter((e) => words.every((word) => line(e).includes(word)))
            .sort((a, b) => rank(a) - rank(b));
        for (const entry of shown.slice(0, MOST)) this.drawEntry(entry);
        if (shown.length > MOST)
            element(this.list, "p", "", `${shown.length - MOST} more; search to narrow them down.`);
        if (!shown.length)
            element(this.list, "p", "", "No tables yet: D-ODE Distill makes them.");
    }

    drawEntry(entry) {
        const box = element(this.list, "div", "dode-entry");
        element(box, "div", "dode-title", `${entry.model || "some model"}: ${entry.title}`);
        if (entry.worth) element(box, "div", "", entry.worth);
        if (FITS[entry.serves]) element(box, "div", "dode-fits", FITS[entry.serves]);
        if (entry.note) element(box, "div", "dode-small", entry.note);
        element(box, "div", "dode-small", entry.file);
        const bar = element(box, "div", "dode-bar");
        const button = (text, act) =>
            element(bar, "button", "", text).addEventListener("click", act);
        if (entry.kind !== "damaged") button("Load", () => loadNode(entry));
        if (entry.kind === "table") button("Export", () => this.act("export", entry));
        if (entry.fixed) return;
        button("Rename", () => this.rename(entry));
        button("Delete", () => this.remove(entry));
    }

    async rename(entry) {
        const dialog = app.extensionManager.dialog;
        const name = await dialog.prompt({
            title: "D-ODE",
            message: `A new name for the file ${entry.file}`,
            defaultValue: entry.file.split("/").pop().replace(/\.dode[.-].*$/, ""),
        });
        if (name) await this.act("rename", entry, { name });
    }

    async remove(entry) {
        const message = `Delete "${entry.title}" from ${entry.file}?`;
        const sure = await app.extensionManager.dialog.confirm({ title: "D-ODE", message });
        if (sure) await this.act("delete", entry);
    }

    async act(action, entry, more = {}) {
        const answer = await api.fetchApi(`/dode/tables/${action}`, {
            method: "POST",
            headers: { "Content-Type": "application/json" },
            body: JSON.stringify({ id: entry.id, ...more }),
        });
        const found = await answer.json();
        await this.load();
        this.said.textContent = found.text ?? found.error;
    }
}

// Adds D-ODE Load Table to the graph, set to that entry.
async function loadNode(entry) {
    await app.refreshComboInNodes?.();
    const node = LiteGraph.createNode("DODE_LoadTable");
    const { ds, canvas } = app.canvas;
    const middle = (i, size) => size / (window.devicePixelRatio || 1) / 2 / ds.scale - ds.offset[i];
    node.pos = [middle(0, canvas.width), middle(1, canvas.height)];
    app.graph.add(node);
    const set = (name, value) => {
        const widget = node.widgets?.find((each) => each.name === name);
        if (widget) widget.value = value;
    };
    set("file", entry.file);
    if (entry.kind === "table") set("table", entry.words);
}

app.registerExtension({
    name: "dode.tables",
    setup() {
        const style = document.createElement("style");
        style.textContent = STYLE;
        document.head.append(style);
        app.extensionManager.registerSidebarTab({
            id: "dode-tables",
            icon: "pi pi-table",
            title: "D-ODE",
            tooltip: "D-ODE tables",
            type: "custom",
            render: (root) => new Panel(root),
        });
    },
});
