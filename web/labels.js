// Labels in the user's language. The front end has them from locales/, but 1.32 loads languages
// other than English late and forgets, when it does, what custom nodes had brought along.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

let labels = {};

function translate(def, label) {
    def.display_name = label.display_name ?? def.display_name;
    def.description = label.description ?? def.description;
    for (const group of Object.values(def.input ?? {})) {
        for (const [name, spec] of Object.entries(group)) {
            const text = label.inputs?.[name];
            if (!text || !Array.isArray(spec)) continue; // hidden inputs are no lists
            spec[1] = { ...spec[1], tooltip: text.tooltip };
        }
    }
    def.output_tooltips = def.output_tooltips?.map(
        (tooltip, i) => label.outputs?.[i]?.tooltip ?? tooltip,
    );
}

app.registerExtension({
    name: "dode.labels",
    async addCustomNodeDefs(defs) {
        const language = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
        if (language === "en") return; // never late
        try {
            const all = await (await api.fetchApi("/i18n")).json();
            labels = all[language]?.nodeDefs ?? {};
        } catch (error) {
            console.warn("D-ODE: no labels in this language.", error);
        }
        for (const [name, def] of Object.entries(defs)) {
            if (name.startsWith("DODE_") && labels[name]) translate(def, labels[name]);
        }
    },
    nodeCreated(node) {
        const label = node.comfyClass?.startsWith("DODE_") && labels[node.comfyClass];
        if (!label) return;
        for (const input of node.inputs ?? []) {
            input.localized_name = label.inputs?.[input.name]?.name ?? input.localized_name;
        }
        for (const widget of node.widgets ?? []) {
            widget.label = label.inputs?.[widget.name]?.name ?? widget.label;
        }
        node.outputs?.forEach((output, i) => {
            output.localized_name = label.outputs?.[i]?.name ?? output.localized_name;
        });
    },
});
