"""What the demo shows, as HTML: entities with bars and links, alt-texts with their mentions."""

import html
import re
from collections.abc import Sequence

from i2e_browser import ShownEntity, ShownRow

from modeling_mofi.search.entity_index import EntityAnswer, FoundEntity


CSS = """
.gradio-container {max-width: 1120px !important; width: 100% !important; margin: 0 auto !important}
.gradio-container main {width: 100%}
.gradio-container h1 {font-size: 2em; font-weight: 700; margin: 8px 0 0}
.gradio-container h3 {font-weight: 600; margin: 0}
.hint, .legend p {opacity: .8; line-height: 1.7}
.hint {border: 1px dashed var(--border-color-primary); border-radius: 12px; padding: 28px; text-align: center}
.entities {display: flex; flex-direction: column; gap: 8px}
.entity {border: 1px solid var(--border-color-primary); border-radius: 12px; padding: 10px 16px;
  background: var(--background-fill-primary)}
.entity .head {display: flex; justify-content: space-between; align-items: baseline; gap: 12px}
.entity .name {font-weight: 600}
.entity.first {padding: 14px 16px; border-color: #93c5fd}
.entity.first .name {font-size: 1.4em}
.entity a, .tag a {color: inherit; padding: 0; margin: 0; text-decoration: underline dotted}
.entity .about {opacity: .8; font-size: .95em; margin: 0 0 6px}
.entity .measure {display: flex; align-items: center; gap: 12px}
.entity .bar {flex: 1; height: 6px; border-radius: 3px; background: var(--border-color-primary); overflow: hidden}
.entity .bar div {height: 100%; border-radius: 3px; background: #94a3b8}
.entity.first .bar div {background: #2563eb}
.unsure .entity.first {border-color: var(--border-color-primary)}
.unsure .bar div, .unsure .entity.first .bar div {background: #cbd5e1}
.entity .number {font-variant-numeric: tabular-nums; color: var(--body-text-color-subdued); font-size: .9em;
  white-space: nowrap}
.verdict {border-radius: 12px; padding: 10px 16px; font-weight: 500}
.verdict.known {background: #dbeafe; color: #1e40af}
.message {border-radius: 12px; padding: 10px 16px; background: #fee2e2; color: #991b1b}
.verdict.unknown {background: #fef3c7; color: #92400e}
.alt-text {font-size: 1.25em; line-height: 1.6; margin-bottom: 14px}
.alt-text mark, .legend mark {background: #fde68a; color: #1f2937; border-radius: 4px; padding: 1px 4px}
.tag {display: inline-block; border-radius: 999px; padding: 3px 12px; margin: 3px 6px 3px 0; font-size: .95em}
.tag.kept {background: #dcfce7; color: #166534}
.tag.dropped {background: #fee2e2; color: #991b1b}
.tag small {opacity: .8; font-variant-numeric: tabular-nums}
.group {font-size: .85em; color: var(--body-text-color-subdued); margin: 10px 0 2px}
"""
INTRODUCTION = "<div class=hint>Drop an image, or take one of the examples: its entities come here.</div>"


def message_html(text: str) -> str:
    """A message to the user, in place of an answer."""
    return f"<div class=message role=alert>{html.escape(text)}</div>"


def entity_link(entity_id: str, text: str | None = None) -> str:
    """A link to Wikidata with a text, for ids that are Wikidata's; else the text alone. By default it is the id."""
    shown = html.escape(entity_id if text is None else text)
    if not re.fullmatch(r"Q\d+", entity_id):
        return f"<span class=number>{shown}</span>" if text is None else shown
    return f'<a href="https://www.wikidata.org/wiki/{entity_id}" target="_blank" rel="noopener">{shown}</a>'


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
        f'<div class=measure><div class=bar><div style="width:{100 * min(max(share, 0), 1):.1f}%"></div></div>'
        f"<div class=number>{number}</div></div></div>"
    )


def answer_html(answer: EntityAnswer) -> str:
    """The best entities of an image, and, with a calibrated index, whether any of them is shown."""
    cards = "".join(entity_card(entity, is_first=not place) for place, entity in enumerate(answer.entities))
    if answer.is_known is None:
        return f"<div class=entities>{cards}</div>"
    known = answer.known_confidence
    if answer.is_known:
        verdict = f"<div class='verdict known'>Shows something that this index knows ({known:.0%}).</div>"
    else:
        verdict = (
            f"<div class='verdict unknown'>Most likely nothing that this index knows ({1 - known:.0%}). "
            "Nearest to it:</div>"
        )
    return f"<div class='entities {'' if answer.is_known else 'unsure'}'>{verdict}{cards}</div>"


def marked_text(text: str, mentions: Sequence[tuple[int, int]]) -> str:
    """The alt-text with its mentions marked; of mentions that overlap the first counts."""
    parts, position = [], 0
    for start, end in sorted(mentions):
        if start >= position:
            parts += [html.escape(text[position:start]), f"<mark>{html.escape(text[start:end])}</mark>"]
            position = end
    return "".join([*parts, html.escape(text[position:])])


def entity_tag(entity: ShownEntity) -> str:
    """An entity of a build's row, linked, with its cosine and the reason why it was dropped."""
    similarity = "" if entity.similarity is None else f" {entity.similarity:.2f}"
    reason = f" · {html.escape(entity.reason)}" if entity.reason else ""
    name = entity_link(entity.entity_id, entity.name)
    likely = "" if entity.probability is None else f"{entity.probability:.0%} likely in this text"
    likely += "" if entity.prior is None else f", {entity.prior:.0%} wherever the name stands"
    return (
        f'<span class="tag {"dropped" if entity.reason else "kept"}" title="{likely}">'
        f"{name}<small>{similarity}{reason}</small></span>"
    )


def knowledge_base_link(name: str) -> str:
    """The knowledge base that a build linked to, as a link where it is `user/name@commit` on the Hub."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", name):
        return ""
    repo_id, _, commit = name.partition("@")
    url = f"https://huggingface.co/datasets/{repo_id}/tree/{commit}"
    return f' They are those of <a href="{url}" target="_blank" rel="noopener">{repo_id}</a>.'


def row_html(row: ShownRow) -> str:
    """Alt-text and entities of a row of a build: those kept, then those dropped."""
    parts = [f"<div class=alt-text>{marked_text(row.alt_text, row.mentions)}</div>"]
    kept = [entity_tag(entity) for entity in row.entities if not entity.reason]
    dropped = [entity_tag(entity) for entity in row.entities if entity.reason]
    for title, tags in (("kept", kept), ("dropped", dropped)):
        if tags:
            parts.append(f"<div class=group>{title}</div><div>{''.join(tags)}</div>")
    return "".join(parts) if row.entities else f"{parts[0]}<div>No entity was found in this text.</div>"
