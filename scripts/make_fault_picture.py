"""Make the README's picture of a planted fault: python scripts/make_fault_picture.py

Trains a public ResNet-50 (pytorchcv) from random weights on the included digits, with the weights
of one convolution multiplied by 30, and photographs its page in Chromium, light and dark. Prints
what the caption of the page says. Needs the test extra.
"""

import os
import shutil
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from playwright.sync_api import sync_playwright
from pytorchcv.model_provider import get_model

import gammabeta as gb
from gammabeta.lab.data.flat import load

DOCS = Path(__file__).parents[1] / "docs"
FAULT = "features.stage3.unit4.body.conv2.conv"
STEPS = 60
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


def train(record: Path) -> None:
    torch.manual_seed(0)
    data = load("digits")
    model = get_model("resnet50", num_classes=data.classes)
    model.features.final_pool = torch.nn.AdaptiveAvgPool2d(1)
    with torch.no_grad():
        model.get_submodule(FAULT).weight.mul_(30)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    title = "ResNet-50 · one layer's weights × 30"
    with gb.watch(model, record, every=1, optimizer=optimizer, title=title) as signal:
        for _ in range(STEPS):
            chosen = torch.randint(len(data.train_x), (16,), generator=generator)
            images = data.train_x[chosen].reshape(-1, 1, 8, 8).expand(-1, 3, -1, -1)
            x = F.interpolate(images, size=64, mode="bilinear")
            loss = F.cross_entropy(model(x), data.train_y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            signal.step(loss=loss)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "fault.sqlite"
        train(record)
        page_file = gb.export(gb.Run(record), Path(folder) / "fault.html")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"), args=FLAGS
            )
            for scheme in ("light", "dark"):
                page = browser.new_page(
                    viewport={"width": 1280, "height": 800},
                    color_scheme=scheme,
                    device_scale_factor=1.5,
                )
                page.goto(f"{page_file.as_uri()}#step={STEPS}")
                page.wait_for_selector(".transport")
                page.wait_for_timeout(1500)
                page.screenshot(path=DOCS / f"fault-{scheme}.png")
                print(page.inner_text(".caption"))
            browser.close()
    print(f"wrote {DOCS}/fault-light.png, fault-dark.png")


if __name__ == "__main__":
    main()
