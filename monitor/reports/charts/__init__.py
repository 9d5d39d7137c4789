"""Charts of days and periods: ECharts options as plain data, and their rendering as SVG without a browser.

`day_charts` and `period_charts` make the options and `render` draws them as SVG; the dashboard draws the same options in the browser.
"""
