"""Which extra of the project installs a missing package."""

EXTRA_OF = {  # by the name of the imported module
    **dict.fromkeys(("torch", "lightning", "safetensors", "sklearn", "matplotlib", "yaml"), "train"),
    **dict.fromkeys(("torchao", "executorch", "cmake"), "export"),
    **dict.fromkeys(("mujoco", "myo_sim"), "sim"),
    **dict.fromkeys(("starlette", "uvicorn", "segno"), "web"),
    **dict.fromkeys(("jinja2", "markupsafe"), "report"),
    **dict.fromkeys(("websockets", "pythonosc", "pylsl"), "sinks"),
    **dict.fromkeys(("pynput", "mido"), "map"),
    **dict.fromkeys(("edfio", "pyxdf", "pyarrow"), "formats"),
    "submitit": "cluster",
    "brainflow": "brainflow",
    "bleak": "ble",
    "tensorboard": "loggers",
    "cryptography": "trust",
    "ppk2_api": "power",
}
PACKAGE_OF = {
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "myo_sim": "myo-sim",
    "pythonosc": "python-osc",
    "markupsafe": "jinja2",
}


def missing_package(error: ModuleNotFoundError, command: str = "") -> str:
    """A sentence with the command that installs a missing package, and others that `command` will need too."""
    module = (error.name or "").partition(".")[0]
    package, extra = PACKAGE_OF.get(module, module), EXTRA_OF.get(module)
    if command in ("export", "demo") and extra in ("train", "export"):
        extra = "train,export"
    what = f"'cpep-edge[{extra}]'" if extra else package
    return f"this needs the package {package}, which is not installed: run pip install {what}"
