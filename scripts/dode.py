"""D-ODE in the WebUI: the hooks that the host looks for. What they do is in dode_webui.

The host runs this file again on "Reload UI", puts the repository's folder on sys.path only
meanwhile, and registers every Script subclass that it finds in here.
"""

from modules import script_callbacks, scripts

from dode_webui import accordion, api, grid, panel, samplers, settings, switching

supported = samplers.register()


class DodeScript(scripts.Script):
    def title(self):  # noqa: ANN201
        return samplers.NAME

    def show(self, is_img2img):  # noqa: ANN001, ANN201
        return scripts.AlwaysVisible if supported else False

    def ui(self, is_img2img):  # noqa: ANN001, ANN201
        return accordion.build(self, is_img2img)

    def process(self, p, *args):  # noqa: ANN001, ANN002, ANN201
        accordion.apply(p, *args)

    def after_component(self, component, **kwargs):  # noqa: ANN001, ANN003, ANN201
        accordion.capture(component, kwargs.get("elem_id"))


if supported:
    script_callbacks.on_ui_settings(settings.add)
    script_callbacks.on_ui_tabs(panel.tabs)
    script_callbacks.on_before_ui(accordion.reset)
    script_callbacks.on_before_ui(grid.add_axes)
    script_callbacks.on_after_component(
        lambda component, **kwargs: switching.capture(component, kwargs.get("elem_id"))
    )
    script_callbacks.on_app_started(api.add_routes)
