// Hides the advanced inputs of this pack's nodes on the front end's canvas: the 1.32 front end
// knows which they are and does not act on it. "Show Advanced" in a node's menu brings them back.
import { app } from "../../scripts/app.js";

app.registerExtension({
    name: "dode.advancedInputs",
    nodeCreated(node) {
        if (!node.comfyClass?.startsWith("DODE_")) return;
        for (const widget of node.widgets ?? []) {
            if (widget.options?.advanced) widget.advanced = true;
        }
    },
});
