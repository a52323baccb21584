// Grafana's own types, as JSON has them. The test writes dashboards.ts beside this file from the committed dashboards.
import type { Dashboard, FieldConfigSource, Panel, RowPanel } from '@grafana/schema';
import type * as BarGauge from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type * as Stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as StateTimeline from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type * as StatusHistory from '@grafana/schema/dist/esm/raw/composable/statushistory/panelcfg/x/StatusHistoryPanelCfg_types.gen';
import type * as Table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as TimeSeries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';
import type { Dashboard as OldestDashboard } from 'grafana-schema-10';

/** A type as JSON has it: enumerations are their values. */
type Json<T> = unknown extends T
  ? T
  : T extends string
    ? `${T}`
    : T extends number
      ? number extends T
        ? number
        : `${T}` extends `${infer N extends number}`
          ? N
          : never
      : T extends ReadonlyArray<infer Item>
        ? ReadonlyArray<Json<Item>>
        : T extends object
        ? { [K in keyof T]: Json<T[K]> }
        : T;

/** What the Prometheus data source reads. */
interface Source {
  type: 'prometheus';
  uid: '${datasource}';
}
interface Query {
  refId: string;
  datasource: Source;
  editorMode: 'code';
  expr: string;
  legendFormat: string;
  instant: boolean;
  range: boolean;
  format: 'time_series' | 'table';
}
interface Annotation {
  name: string;
  datasource: Source;
  enable: boolean;
  hide: boolean;
  iconColor: string;
  expr: string;
  titleFormat: string;
  textFormat: string;
  tagKeys: string;
  useValueForTime: boolean;
  step: string;
}

type Of<Type extends string, Options, Custom> = Omit<
  Json<Panel>,
  'type' | 'options' | 'fieldConfig' | 'targets' | 'datasource'
> & {
  type: Type;
  options: Json<Options>;
  fieldConfig: Json<FieldConfigSource<Partial<Custom>>>;
  targets: Query[];
  datasource: Source;
};
type Known =
  | Of<'stat', Stat.Options, {}>
  | Of<'bargauge', BarGauge.Options, {}>
  | Of<'timeseries', TimeSeries.Options, TimeSeries.FieldConfig>
  | Of<'state-timeline', StateTimeline.Options, StateTimeline.FieldConfig>
  | Of<'status-history', StatusHistory.Options, StatusHistory.FieldConfig>
  | Of<'table', Table.Options, Table.FieldConfig>;
type Row = Omit<Json<RowPanel>, 'panels'> & { panels: Known[] };

/** The newest types. The literals of dashboards.ts are held against them: no field too many, none too few. */
export type Newest = Omit<Json<Dashboard>, 'panels' | 'annotations'> & {
  panels: Array<Known | Row>;
  annotations: { list: Array<Annotation | Json<NonNullable<NonNullable<Dashboard['annotations']>['list']>[number]>> };
};
/** The oldest types: what they know must fit; Grafana ignores what came later. It takes a missing style for dark. */
export type Oldest = Omit<Json<OldestDashboard>, 'style'>;
