// Draws one dashboard from the answers in window.PREVIEW with Grafana's own components.
import '@fontsource/inter/400.css';
import '@fontsource/inter/500.css';
import '@grafana/react-data-grid/lib/styles.css';
import {
  type DataFrame,
  FieldType,
  ThemeContext,
  type TimeRange,
  createTheme,
  dateTime,
  dateTimeFormat,
  getDisplayValueAlignmentFactors,
  getFieldDisplayValues,
} from '@grafana/data';
import { BarGauge, BigValue, GlobalStyles, PanelChrome, TimeSeries, VizRepeater } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import { Component, type ReactNode } from 'react';
import { createRoot } from 'react-dom/client';
import { type Panel, frames } from './data';
import { Strips } from './strips';

interface Mark {
  time: number;
  text: string;
  color: string;
}
interface Input {
  dashboard: any;
  answers: Record<string, Record<string, any[]>>;
  marks: Mark[];
  chosen: Record<string, string>;
  from: number;
  to: number;
  step: number;
  caption: string;
}

const CELL = 30;
const GAP = 8;
const input: Input = (window as any).PREVIEW;
const theme = createTheme({ colors: { mode: 'dark' } });
const range: TimeRange = {
  from: dateTime(input.from * 1000),
  to: dateTime(input.to * 1000),
  raw: { from: dateTime(input.from * 1000), to: dateTime(input.to * 1000) },
};

function Values({ panel, data, width, height }: { panel: Panel; data: DataFrame[]; width: number; height: number }) {
  const { options } = panel;
  const values = () =>
    getFieldDisplayValues({
      fieldConfig: panel.fieldConfig as any,
      reduceOptions: options.reduceOptions,
      replaceVariables: (text) => text,
      theme,
      data,
      sparkline: panel.type === 'stat' && options.graphMode !== 'none',
      timeZone: 'utc',
    });
  const repeat = {
    source: data,
    getValues: values,
    width,
    height,
    renderCounter: 0,
    orientation: options.orientation,
    itemSpacing: panel.type === 'stat' ? 3 : 8,
  };
  if (panel.type === 'bargauge') {
    return (
      <VizRepeater
        {...repeat}
        minVizHeight={options.minVizHeight}
        maxVizHeight={options.maxVizHeight}
        minVizWidth={options.minVizWidth}
        getAlignmentFactors={getDisplayValueAlignmentFactors}
        renderValue={({ value, width, height, orientation, alignmentFactors }) => (
          <BarGauge
            value={value.display}
            field={value.field}
            display={value.view?.getFieldDisplayProcessor(value.colIndex!)}
            width={width}
            height={height}
            orientation={orientation}
            displayMode={options.displayMode}
            valueDisplayMode={options.valueMode}
            namePlacement={options.namePlacement}
            showUnfilled={options.showUnfilled}
            alignmentFactors={alignmentFactors}
            theme={theme}
          />
        )}
      />
    );
  }
  return (
    <VizRepeater
      {...repeat}
      autoGrid
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderValue={({ value, width, height, alignmentFactors, count }) => (
        <BigValue
          value={value.display}
          sparkline={value.sparkline && { ...value.sparkline, timeRange: range }}
          count={count}
          width={width}
          height={height}
          colorMode={options.colorMode}
          graphMode={options.graphMode}
          justifyMode={options.justifyMode}
          textMode={options.textMode}
          text={options.text}
          disableWideLayout={!options.wideLayout}
          alignmentFactors={alignmentFactors}
          theme={theme}
        />
      )}
    />
  );
}

function Lines({ panel, data, width, height }: { panel: Panel; data: DataFrame[]; width: number; height: number }) {
  return (
    <TimeSeries
      frames={data}
      structureRev={1}
      timeRange={range}
      timeZone="utc"
      width={width}
      height={height}
      legend={panel.options.legend}
      options={panel.options}
    >
      {(builder) => {
        builder.addHook('draw', (plot) => {
          const context = plot.ctx;
          context.save();
          for (const mark of input.marks) {
            const x = plot.valToPos(mark.time, 'x', true);
            if (x < plot.bbox.left || x > plot.bbox.left + plot.bbox.width) {
              continue;
            }
            context.strokeStyle = context.fillStyle = theme.visualization.getColorByName(mark.color);
            context.setLineDash([4, 4]);
            context.beginPath();
            context.moveTo(x, plot.bbox.top);
            context.lineTo(x, plot.bbox.top + plot.bbox.height);
            context.stroke();
            context.setLineDash([]);
            context.beginPath();
            context.moveTo(x - 5, plot.bbox.top + plot.bbox.height + 8);
            context.lineTo(x + 5, plot.bbox.top + plot.bbox.height + 8);
            context.lineTo(x, plot.bbox.top + plot.bbox.height);
            context.fill();
          }
          context.restore();
        });
        return null;
      }}
    </TimeSeries>
  );
}

function Body({ panel, data, width, height }: { panel: Panel; data: DataFrame[]; width: number; height: number }) {
  const numbers = data.some((frame) => frame.length > 0 && frame.fields.some((field) => field.type !== FieldType.time));
  if (panel.type === 'stat' || (numbers && panel.type === 'bargauge')) {
    return <Values panel={panel} data={data} width={width} height={height} />;
  }
  if (!numbers) {
    return (
      <div style={{ display: 'grid', placeItems: 'center', height, color: theme.colors.text.secondary }}>
        {panel.fieldConfig.defaults.noValue}
      </div>
    );
  }
  if (panel.type === 'timeseries') {
    return <Lines panel={panel} data={data} width={width} height={height} />;
  }
  if (panel.type === 'table') {
    return (
      <TableNG
        data={data[0]}
        width={width}
        height={height}
        sortBy={panel.options.sortBy}
        cellHeight={panel.options.cellHeight}
        fieldConfig={panel.fieldConfig as any}
      />
    );
  }
  return (
    <Strips
      data={data}
      width={width}
      height={height}
      range={range}
      step={input.step}
      options={panel.options}
      merge={panel.type === 'state-timeline'}
    />
  );
}

/** A panel that cannot be drawn says why, and fails the run: see PREVIEW_FAILED in previews.py. */
class Guard extends Component<{ children: ReactNode }, { error?: Error }> {
  state: { error?: Error } = {};
  static getDerivedStateFromError(error: Error) {
    return { error };
  }
  componentDidCatch(error: Error, info: any) {
    console.error(`PREVIEW_FAILED ${error.message} ${info.componentStack}`);
  }
  render() {
    return this.state.error ? <pre>{this.state.error.message}</pre> : this.props.children;
  }
}

function Dashboard({ drawn, width }: { drawn: Array<{ panel: Panel; data: DataFrame[] }>; width: number }) {
  const column = (width + GAP) / 24;
  const stamp = (moment: number) => dateTimeFormat(moment * 1000, { format: 'YYYY-MM-DD HH:mm', timeZone: 'utc' });
  const height = Math.max(...drawn.map(({ panel }) => (panel.gridPos.y + panel.gridPos.h) * (CELL + GAP)));
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <div style={{ padding: 16, background: theme.colors.background.canvas, width: width + 32 }}>
        <div style={{ display: 'flex', gap: 12, alignItems: 'baseline', marginBottom: 8 }}>
          <span style={{ fontSize: 20, fontWeight: 500 }}>{input.dashboard.title}</span>
          <span style={{ color: theme.colors.text.secondary }}>
            {stamp(input.from)} to {stamp(input.to).slice(11)} UTC
          </span>
          <span style={{ flex: 1 }} />
          <span style={{ color: theme.colors.warning.text }}>{input.caption}</span>
        </div>
        <div style={{ display: 'flex', gap: 16, marginBottom: 12, color: theme.colors.text.secondary, fontSize: 12 }}>
          {input.dashboard.templating.list.map((variable: any) => (
            <span key={variable.name}>
              {variable.label}{' '}
              <b style={{ color: theme.colors.text.primary }}>
                {variable.type === 'datasource' ? 'Prometheus' : input.chosen[variable.name] ?? String(variable.current.text ?? 'All')}
              </b>
            </span>
          ))}
          <span style={{ flex: 1 }} />
          {input.dashboard.links.map((link: any) => (
            <span key={link.url} style={{ color: theme.colors.text.link }}>
              {link.title}
            </span>
          ))}
        </div>
        <div style={{ position: 'relative', height }}>
          {drawn.map(({ panel, data }) => {
            const { x, y, w, h } = panel.gridPos;
            const place = { position: 'absolute' as const, left: x * column, top: y * (CELL + GAP) };
            if (panel.type === 'row') {
              return (
                <div key={panel.id} style={{ ...place, fontSize: 16, fontWeight: 500, lineHeight: `${CELL}px` }}>
                  ⌄ {panel.title}
                </div>
              );
            }
            return (
              <div key={panel.id} style={place}>
                <PanelChrome
                  title={panel.title}
                  width={w * column - GAP}
                  height={h * (CELL + GAP) - GAP}
                  padding={panel.type === 'table' ? 'none' : 'md'}
                >
                  {(inner, high) => (
                    <Guard>
                      <Body panel={panel} data={data} width={inner} height={high} />
                    </Guard>
                  )}
                </PanelChrome>
              </div>
            );
          })}
        </div>
      </div>
    </ThemeContext.Provider>
  );
}

async function draw() {
  // Sizes of texts are measured before they are drawn: the font has to be there by then.
  await Promise.all(['400 14px Inter', '500 14px Inter'].map((font) => document.fonts.load(font)));
  const panels: Panel[] = input.dashboard.panels.flatMap((panel: Panel) => [panel, ...(panel.panels ?? [])]);
  const drawn = await Promise.all(
    panels.map(async (panel) => ({
      panel,
      data: await frames(panel, input.answers[panel.id] ?? {}, input.step, theme),
    }))
  );
  const root = document.getElementById('root')!;
  createRoot(root).render(<Dashboard drawn={drawn} width={window.innerWidth - 32} />);
}

draw().catch((error) => {
  document.body.textContent = `preview failed: ${error.stack}`;
});
