#!/usr/bin/env bash
# Lint, types, import layers, spelling. Exits with the first failure.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/ruff ] && PATH="$PWD/.venv/bin:$PATH"
ruff format --check .
ruff check .
mypy
lint-imports
codespell decode configs scripts benchmarks docs README.md
