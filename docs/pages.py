"""The site's pages, for MkDocs: every Markdown file of the repository where it lies, and two that are made from code.

So a page is written once, its links work in the repository too, and `mkdocs build --strict` checks each of them.
"""

import posixpath
import re
import subprocess
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put the repository's pages, and the files that they link to, in the place of what MkDocs found under docs/."""
    for file in list(files.documentation_pages()) + list(files.media_files()):
        files.remove(file)
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    names = [name for name in tracked.stdout.decode().splitlines() if (ROOT / name).is_file()]
    pages = [name for name in names if name.endswith(".md")]
    linked = {target for name in pages for target in _targets(name, (ROOT / name).read_text(encoding="utf-8"))}
    for name in {*pages, *(linked & set(names))}:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    files.append(File.generated(config, "site.css", abs_src_path=str(ROOT / "docs" / "site.css")))
    for name, content in (("commands", _commands()), ("recipes", _recipes())):
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A link to a folder leads to its README, or is left out where it has none."""
    here = posixpath.dirname(page.file.src_uri)

    def resolved(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(here, found[1]))
        if (ROOT / target / "README.md").is_file():
            return posixpath.relpath(f"{target}/README.md", here or ".") + (found[2] or "")
        return found[0]

    return _LINK.sub(resolved, markdown)


def _targets(name: str, markdown: str) -> set[str]:
    """The files of the repository that a page links to."""
    here = posixpath.dirname(name)
    text = _FENCE.sub("", markdown)
    return {posixpath.normpath(posixpath.join(here, target)) for target, _ in _LINK.findall(text)}


def _commands() -> str:
    """Every command with its options, as Typer writes them."""
    import typer
    from typer.cli import get_docs_for_click

    from cpep_edge.cli import app

    command = typer.main.get_command(app)
    return str(get_docs_for_click(obj=command, ctx=typer.Context(command), name="cpep-edge", title="Commands"))


def _recipes() -> str:
    """Every setting of a recipe, a table a section."""
    from cpep_train.recipe import Recipe
    from cpep_train.recipe_keys import keys_of

    text = (
        "# Recipes\n\nA recipe is a TOML file; [Train on my data](../docs/training.md#recipes) shows whole ones. These "
        "are all the settings, as `cpep-edge recipes show` prints them. `--set section.key=value` changes one.\n"
    )
    section = None
    for key in keys_of(Recipe):
        table, _, name = key.name.rpartition(".")
        if table != section:
            section = table
            text += f"\n## {table or 'Recipe'}\n\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n"
        cells = (f"`{name}`", f"`{key.kind}`", f"`{key.default}`" if key.default else "required", key.meaning)
        text += "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
    return text
