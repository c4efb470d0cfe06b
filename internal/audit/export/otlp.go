package export

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"sallyport.dev/sallyport/internal/audit"
)

// Origin is what OTLP calls the resource: which process wrote the records.
type Origin struct {
	// Version is the gateway's.
	Version string
	// Instance tells gateways apart; empty for one that needs no name.
	Instance string
}

// The messages of OTLP in their JSON form: names in lower camel case, 64-bit integers as text, enumerations as numbers.
type (
	logsRequest struct {
		ResourceLogs []resourceLogs `json:"resourceLogs"`
	}
	resourceLogs struct {
		Resource  resource    `json:"resource"`
		ScopeLogs []scopeLogs `json:"scopeLogs"`
	}
	resource struct {
		Attributes []attribute `json:"attributes"`
	}
	scopeLogs struct {
		Scope      scope       `json:"scope"`
		LogRecords []logRecord `json:"logRecords"`
	}
	scope struct {
		Name string `json:"name"`
	}
	logRecord struct {
		TimeUnixNano         string      `json:"timeUnixNano"`
		ObservedTimeUnixNano string      `json:"observedTimeUnixNano"`
		SeverityNumber       int         `json:"severityNumber"`
		SeverityText         string      `json:"severityText"`
		EventName            string      `json:"eventName"`
		Body                 value       `json:"body"`
		Attributes           []attribute `json:"attributes"`
	}
	attribute struct {
		Key   string `json:"key"`
		Value value  `json:"value"`
	}
	value struct {
		String *string `json:"stringValue,omitempty"`
		Int    string  `json:"intValue,omitempty"`
		List   *list   `json:"kvlistValue,omitempty"`
	}
	list struct {
		Values []attribute `json:"values"`
	}
)

// Severity numbers of OTLP.
const (
	severityInfo  = 9
	severityWarn  = 13
	severityError = 17
)

// Request returns the OTLP request that exports the records, as JSON: the body of a POST to /v1/logs.
func Request(records []audit.Record, from Origin) ([]byte, error) {
	logs := make([]logRecord, len(records))
	for i := range records {
		logs[i] = logOf(&records[i])
	}
	attributes := []attribute{textOf("service.name", product)}
	if from.Version != "" {
		attributes = append(attributes, textOf("service.version", from.Version))
	}
	if from.Instance != "" {
		attributes = append(attributes, textOf("service.instance.id", from.Instance))
	}
	data, err := json.Marshal(logsRequest{ResourceLogs: []resourceLogs{{
		Resource:  resource{Attributes: attributes},
		ScopeLogs: []scopeLogs{{Scope: scope{Name: "sallyport.audit"}, LogRecords: logs}},
	}}})
	if err != nil {
		return nil, fmt.Errorf("encode audit records: %w", err)
	}
	return data, nil
}

func logOf(r *audit.Record) logRecord {
	at := strconv.FormatInt(r.Time.UnixNano(), 10)
	message := Message(r)
	l := logRecord{
		TimeUnixNano: at, ObservedTimeUnixNano: at, SeverityNumber: severityInfo, SeverityText: "INFO",
		EventName: "sallyport.audit", Body: value{String: &message},
		Attributes: []attribute{{Key: "audit.sequence", Value: value{Int: strconv.FormatUint(r.Sequence, 10)}}},
	}
	switch {
	case r.Action == audit.ActionChainBroken || r.Action == audit.ActionLost:
		l.SeverityNumber, l.SeverityText = severityError, "ERROR"
	case r.Verdict != audit.Allowed:
		l.SeverityNumber, l.SeverityText = severityWarn, "WARN"
	}
	for _, f := range []struct{ key, text string }{
		{"audit.actor", r.Actor},
		{"audit.actor_kind", r.ActorKind},
		{"audit.tenant", r.Tenant},
		{"audit.action", r.Action},
		{"audit.target", r.Target},
		{"audit.verdict", r.Verdict},
		{"audit.reason", r.Reason},
		{"audit.request_id", r.RequestID},
		{"client.address", r.Remote},
		{"audit.hash", hashText(r)},
	} {
		if f.text != "" {
			l.Attributes = append(l.Attributes, textOf(f.key, f.text))
		}
	}
	if len(r.Details) > 0 {
		details := &list{}
		for _, k := range slices.Sorted(maps.Keys(r.Details)) {
			details.Values = append(details.Values, textOf(k, r.Details[k]))
		}
		l.Attributes = append(l.Attributes, attribute{Key: "audit.details", Value: value{List: details}})
	}
	return l
}

func textOf(key, text string) attribute { return attribute{Key: key, Value: value{String: &text}} }
