"""What the demo shows, as HTML: entities with bars and links, alt-texts with their mentions."""

import html
import re
from collections.abc import Sequence

from i2e_browser import ShownRow

from modeling_mofi.entity_index import EntityAnswer, FoundEntity


CSS = """
.gradio-container {max-width: 1080px !important; width: 100% !important; margin: 0 auto !important}
.gradio-container main {width: 100%}
.entities {display: flex; flex-direction: column; gap: 10px}
.entity {border: 1px solid var(--border-color-primary); border-radius: 12px; padding: 12px 16px;
  background: var(--background-fill-primary)}
.entity .head {display: flex; justify-content: space-between; align-items: baseline; gap: 12px}
.entity .name {font-size: 1.15em; font-weight: 600}
.entity a {color: var(--link-text-color); text-decoration: none; font-size: .85em}
.entity .about {opacity: .75; font-size: .95em; margin: 2px 0 8px}
.entity .bar {height: 6px; border-radius: 3px; background: var(--border-color-primary); overflow: hidden}
.entity .bar div {height: 100%; border-radius: 3px; background: #2563eb}
.entity.first .bar div {background: #16a34a}
.entity .number {font-variant-numeric: tabular-nums; opacity: .65; font-size: .9em}
.unknown {border: 1px dashed #d97706; border-radius: 12px; padding: 12px 16px; color: #b45309}
.alt-text {font-size: 1.2em; line-height: 1.6; margin-bottom: 12px}
.alt-text mark {background: #fde68a; color: #1f2937; border-radius: 4px; padding: 1px 3px}
.tag {display: inline-block; border-radius: 999px; padding: 3px 12px; margin: 3px 6px 3px 0; font-size: .95em}
.tag.kept {background: #dcfce7; color: #166534}
.tag.dropped {background: #fee2e2; color: #991b1b}
.tag small {opacity: .75}
"""


def entity_link(entity_id: str) -> str:
    """A link to Wikidata, for ids that are Wikidata's."""
    if not re.fullmatch(r"Q\d+", entity_id):
        return f"<span class=number>{html.escape(entity_id)}</span>"
    return f'<a href="https://www.wikidata.org/wiki/{entity_id}" target="_blank" rel="noopener">{entity_id}</a>'


def entity_card(entity: FoundEntity, *, is_first: bool) -> str:
    """One entity: name, description, link, and a bar of its confidence, or of its cosine before calibration."""
    share = entity.similarity if entity.confidence is None else entity.confidence
    number = f"cosine {entity.similarity:.2f}"
    if entity.confidence is not None:
        number = f"{entity.confidence:.0%} · {number}"
    return (
        f'<div class="entity {"first" if is_first else ""}"><div class=head><span class=name>'
        f"{html.escape(entity.name)}</span>{entity_link(entity.entity_id)}</div>"
        f"<div class=about>{html.escape(entity.description)}</div>"
        f'<div class=bar><div style="width:{100 * min(max(share, 0), 1):.1f}%"></div></div>'
        f"<div class=number>{number}</div></div>"
    )


def answer_html(answer: EntityAnswer) -> str:
    """The best entities of an image, after a word where most likely none of them is shown."""
    cards = [entity_card(entity, is_first=not place) for place, entity in enumerate(answer.entities)]
    if answer.is_known is False:
        chance = 1 - answer.known_confidence
        cards.insert(
            0, f"<div class=unknown>Most likely nothing that this index knows ({chance:.0%}). Nearest to it:</div>"
        )
    return f"<div class=entities>{''.join(cards)}</div>"


def marked_text(text: str, mentions: Sequence[tuple[int, int]]) -> str:
    """The alt-text with its mentions marked; of mentions that overlap the first counts."""
    parts, position = [], 0
    for start, end in sorted(mentions):
        if start >= position:
            parts += [html.escape(text[position:start]), f"<mark>{html.escape(text[start:end])}</mark>"]
            position = end
    return "".join([*parts, html.escape(text[position:])])


def row_html(row: ShownRow) -> str:
    """Alt-text and entities of a row of a build."""
    tags = []
    for entity in row.entities:
        similarity = "" if entity.similarity is None else f" {entity.similarity:.2f}"
        reason = f" · {entity.reason}" if entity.reason else ""
        kind = "dropped" if entity.reason else "kept"
        tags.append(f'<span class="tag {kind}">{html.escape(entity.name)}<small>{similarity}{reason}</small></span>')
    entities = "".join(tags) or "No entity was found in this text."
    return f"<div class=alt-text>{marked_text(row.alt_text, row.mentions)}</div><div>{entities}</div>"
