"""Charts of days: what is drawn (ECharts options, as plain data) and how it becomes a picture without a browser.

`of_day` and `of_days` make the options, `render` turns them into SVG; the dashboard draws the same options in the browser.
"""
