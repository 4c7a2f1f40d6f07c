// A run of the sampler "dode" that used no table, or one not made for it, is said once a run where
// it is seen: the log is not. Off by a setting.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const SETTING = "dode.notices";
const LIFE = 15000; // milliseconds on screen
let told = false;

app.registerExtension({
    name: "dode.notice",
    settings: [
        {
            id: SETTING,
            category: ["D-ODE", "Sampling", "Notices"],
            name: "Say when a run used no table, or one that was not made for it",
            type: "boolean",
            defaultValue: true,
        },
    ],
    setup() {
        api.addEventListener("execution_start", () => (told = false));
        api.addEventListener("dode.notice", ({ detail }) => {
            if (told || !app.extensionManager.setting.get(SETTING)) return;
            told = true;
            const message = { severity: "warn", summary: "D-ODE", detail: detail.text, life: LIFE };
            app.extensionManager.toast.add(message);
        });
    },
});
