// What a node says: while it runs how far it is, afterwards its report, which stays in the workflow.
// One widget of our own for both, since the stock one goes with the job or stays for good,
// depending on the version; with lines kept, on the canvas and in Nodes 2.0.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const KEPT = "dode_report"; // the node's property that holds the report
// Lines that fit; nodes with a picture keep to them, the others let their text have all the room.
const LINES = {
    DODE_Distill: 6,
    DODE_Compare: 6,
    DODE_KSampler: 3,
    DODE_LoadTable: 3,
    DODE_SaveTable: 3,
    DODE_Tables: 8,
};
const PICTURES = ["DODE_Distill", "DODE_Compare"];
const LINE = 17;
const STYLE = `
.dode-report { box-sizing: border-box; overflow: auto; padding: 4px 8px; border-radius: 6px;
    background: var(--comfy-input-bg, #222); color: var(--input-text, #ddd);
    font: 12px/${LINE}px sans-serif; white-space: pre-wrap; overflow-wrap: anywhere;
    user-select: text; cursor: text; }
.dode-report:empty::before { content: attr(data-hint); opacity: 0.55; }
.dode-report img { float: left; height: ${4 * LINE}px; margin: 2px 8px 0 0; border-radius: 4px; }
`;
const running = new Set(); // nodes that show progress

function show(node, text, picture) {
    const element = node.dodeReport;
    if (!element) return;
    element.replaceChildren();
    if (picture) {
        const image = document.createElement("img");
        image.src = picture;
        image.alt = "";
        element.append(image);
    }
    if (text) element.append(text);
}

function showKept(node) {
    running.delete(node);
    show(node, node.properties?.[KEPT]);
}

function addReport(node) {
    const lines = LINES[node.comfyClass];
    const element = document.createElement("div");
    element.className = "dode-report";
    element.dataset.hint = "After a run it says here what was done.";
    element.dataset.testid = "dode-report";
    element.style.minHeight = `${lines * LINE + 8}px`; // Nodes 2.0 asks the element itself
    element.addEventListener("wheel", (event) => {
        if (element.scrollHeight > element.clientHeight) event.stopPropagation();
    });
    const height = lines * LINE + 28; // with the margins that the canvas takes off
    const options = { serialize: false, hideOnZoom: false, getMinHeight: () => height };
    options.getValue = () => element.textContent;
    const widget = node.addDOMWidget("dode_report", "dode_report", element, options);
    widget.serialize = false; // the property keeps it: widgets' values go by their order
    if (PICTURES.includes(node.comfyClass)) {
        element.style.maxHeight = element.style.minHeight;
        widget.computeSize = (width) => [width ?? 0, height];
        widget.computeLayoutSize = undefined; // Nodes 2.0 lets what has one grow
    }
    node.dodeReport = element;
}

// "5:3" is node 3 inside of the subgraph that node 5 is.
function findNode(id) {
    let graph = app.rootGraph ?? app.graph;
    let node;
    for (const part of String(id).split(":")) {
        node = graph?.getNodeById(Number(part)) ?? graph?.getNodeById(part);
        graph = node?.subgraph;
    }
    return node;
}

app.registerExtension({
    name: "dode.report",
    setup() {
        const style = document.createElement("style");
        style.textContent = STYLE;
        document.head.append(style);
        api.addEventListener("dode.progress", ({ detail }) => {
            const node = findNode(detail.node);
            if (!node?.dodeReport) return;
            if (!detail.text) return showKept(node);
            running.add(node);
            show(node, detail.text, detail.picture);
        });
        for (const end of ["execution_success", "execution_error", "execution_interrupted"]) {
            api.addEventListener(end, () => [...running].forEach(showKept));
        }
    },
    nodeCreated(node) {
        if (!(node.comfyClass in LINES)) return;
        addReport(node);
        const { onExecuted, onConfigure } = node;
        node.onExecuted = function (output) {
            onExecuted?.apply(this, arguments);
            const text = output?.text;
            if (text == null) return;
            this.properties[KEPT] = Array.isArray(text) ? text.join("") : String(text);
            showKept(this);
        };
        node.onConfigure = function () {
            onConfigure?.apply(this, arguments);
            showKept(this);
        };
    },
});
