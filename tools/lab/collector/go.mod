module collector

go 1.25.0

require (
	github.com/open-telemetry/opentelemetry-collector-contrib/processor/transformprocessor v0.146.0
	github.com/open-telemetry/opentelemetry-collector-contrib/receiver/prometheusreceiver v0.146.0
	go.opentelemetry.io/collector/component v1.52.0
	go.opentelemetry.io/collector/confmap v1.52.0
	go.opentelemetry.io/collector/confmap/provider/envprovider v1.52.0
	go.opentelemetry.io/collector/confmap/provider/fileprovider v1.52.0
	go.opentelemetry.io/collector/exporter v1.52.0
	go.opentelemetry.io/collector/exporter/otlphttpexporter v0.146.1
	go.opentelemetry.io/collector/otelcol v0.146.1
	go.opentelemetry.io/collector/processor v1.52.0
	go.opentelemetry.io/collector/receiver v1.52.0
	go.opentelemetry.io/collector/service v0.146.1
)
