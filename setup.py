"""Metadata of the package: `pip install .` for the model, `.[data,train,evaluate,demo]` for the whole chain."""

from pathlib import Path

from setuptools import find_packages, setup


EXTRAS = {
    "data": [
        "datasets>=5.0",
        "huggingface_hub>=1.0",
        "marisa-trie>=1.2",
        "numpy",
        "pillow",
        "pyarrow>=21",
        "pyyaml",
        "spacy>=3.8",
        "tqdm",
    ],
    "train": ["accelerate>=1.10", "datasets>=5.0", "numpy", "pyyaml", "tensorboard"],
    "evaluate": [
        "accelerate>=1.10",
        "datasets>=5.0",
        "evaluate>=0.4.6",
        "matplotlib",
        "numpy",
        "pyyaml",
        "scikit-learn",
    ],
    "demo": ["gradio>=6", "pyarrow>=21"],
    "index": ["faiss-cpu>=1.9", "pyarrow>=21"],
    "onnx": ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.5"],
    "quantization": ["optimum-quanto>=0.2.7"],
    "ray": ["ray[data]>=2.50"],
    "dev": [
        "pytest",
        "pytest-timeout",
        "pytest-xdist",
        "ray[data]>=2.50",
        "ruff",
        "sentence-transformers>=6",
        "trackio",
        "wandb",
        "websockets>=13",
    ],
}

setup(
    name="mofi",
    version="0.1.0",
    description="MOFI: image representations learned from noisy entity-annotated images, for Hugging Face",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["modeling_mofi*", "data_scripts*"]),
    package_data={"data_scripts.report": ["page.css"]},
    # The template that publishing fills.
    data_files=[("share/mofi", ["model_card.md"])],
    # transformers 5.20 is the first with `sub_configs_defaults`, which MofiConfig relies on.
    install_requires=["torch>=2.5", "transformers>=5.20", "pillow", "safetensors>=0.4.3"],
    extras_require=EXTRAS,
)
