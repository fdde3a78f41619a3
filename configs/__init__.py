"""Configs that come with qcal: `default.yaml`, whole recipes, and overlays in `regimes/` and `quantization/`."""
