/* Adds a kind of series to ECharts: bars along an axis, each from one value to another, in a row.
 * Data: [from, to, row]; a range too short to be seen is drawn a little longer. */
echarts.registerCustomSeries("timeRange", function (params, api) {
  const from = api.coord([api.value(0), api.value(2)]);
  const to = api.coord([api.value(1), api.value(2)]);
  const height = api.size([0, 1])[1] * 0.76;
  const style = Object.assign(api.style(), { decal: api.visual("decal") });
  const shape = { x: from[0], y: from[1] - height / 2, width: Math.max(1.2, to[0] - from[0]), height: height };
  return { type: "rect", shape: shape, style: style };
});
