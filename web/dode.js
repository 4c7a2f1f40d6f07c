// Hides the advanced inputs of this pack's nodes on the front end's canvas, which knows which they
// are and does not act on it (Nodes 2.0 does). "Show Advanced" in a node's menu brings them back.
import { app } from "../../scripts/app.js";

const ROW = 20; // a widget's height in the graph's units
const WIDE = { DODE_Distill: 420, DODE_Compare: 520 }; // they show pictures
const NOTHING = [0, -4]; // the layout adds a gap of 4

// What is linked keeps its row, hidden or not, since the link has to end somewhere.
function isLinked(node, widget) {
    return node.inputs?.some((input) => input.widget?.name === widget.name && input.link != null);
}

app.registerExtension({
    name: "dode.advancedInputs",
    nodeCreated(node) {
        if (!node.comfyClass?.startsWith("DODE_")) return;
        for (const widget of node.widgets ?? []) {
            if (!widget.options?.advanced) continue;
            const size = widget.computeSize;
            widget.advanced = true;
            widget.computeSize = (width) => {
                if (!node.showAdvanced && !isLinked(node, widget)) return NOTHING;
                return size ? size.call(widget, width) : [width ?? 0, ROW];
            };
        }
        const width = WIDE[node.comfyClass] ?? 0;
        node.setSize([Math.max(node.size[0], width), node.computeSize()[1]]);
    },
});
