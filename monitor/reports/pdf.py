"""Renders an HTML report as a tagged PDF with WeasyPrint. Fetches nothing: pages are self-contained."""

import logging

from weasyprint import HTML
from weasyprint.urls import URLFetcher

from monitor.reports import html_report
from monitor.reports.data import RenderOptions, ReportData

# What is tried where one sheet of paper has to do: smaller type and charts, still to be read at arm's length.
_TIGHTER = (
    "",
    "@media print { body { font-size: 7.8pt; line-height: 1.25 } figure svg { width: 84% } }",
    "@page { margin: 8mm 12mm } @media print { body { font-size: 7pt; line-height: 1.2 } figure svg { width: 68% } }",
)


def render(report: ReportData, options: RenderOptions) -> bytes:
    """For files: the page, set smaller where a day or a sheet would take two."""
    return to_pdf(html_report.render(report, options).decode(), one_sheet=options.sheet or report.period.is_day)


def to_pdf(page: str, one_sheet: bool = False) -> bytes:
    """The PDF of a page, tagged for screen readers. one_sheet: set it smaller, within reason, where it would take two."""
    # It warns about every rule of the style sheet that only browsers know.
    logging.getLogger("weasyprint").setLevel(logging.ERROR)
    for style in _TIGHTER if one_sheet else _TIGHTER[:1]:
        # Into the page's own style: what is given beside it yields to it.
        html = HTML(string=page.replace("</style>", f"{style}</style>", 1), url_fetcher=URLFetcher(allowed_protocols=()))
        document = html.render(pdf_variant="pdf/ua-1")
        if len(document.pages) == 1:
            break
    pdf = document.write_pdf()
    if not isinstance(pdf, bytes):
        raise TypeError("WeasyPrint wrote no PDF")
    return pdf
