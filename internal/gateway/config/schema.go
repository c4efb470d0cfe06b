package config

import (
	"encoding/json"
	"strconv"
	"strings"
)

// SchemaID is the address of the published schema.
const SchemaID = "https://sallyport.dev/schemas/gateway.schema.json"

// object is a JSON object of a schema.
type object map[string]any

// Schema is the JSON schema (draft 2020-12) of the configuration file, made of the table of settings.
func Schema() []byte {
	root := closed("Settings of sallyport-gateway")
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["$id"] = SchemaID
	root["title"] = "Configuration file of sallyport-gateway"
	place(root, "openshell", closed("All settings"))
	place(root, "openshell.version", object{"type": "integer", "minimum": 0, "maximum": 1, "description": "version of this format"})
	for _, s := range settings {
		if s.file != "" {
			place(root, "openshell."+s.file, s.schema())
		}
	}
	for _, key := range unusedKeys {
		place(root, "openshell."+key, object{"description": "accepted, no effect"})
	}
	place(root, "openshell.drivers", object{
		"type": "object", "description": "a table for each driver, whose other keys are for the driver",
		"additionalProperties": object{"type": "object", "properties": object{"socket_path": object{"type": "string", "minLength": 1, "description": "Unix socket of the compute driver"}}},
	})
	issuer := closed("one identity provider")
	for _, f := range issuerFields {
		if !f.alone {
			place(root, "openshell.gateway.oidc."+f.key, f.schema())
		}
		place(issuer, f.key, f.schema())
	}
	issuer["required"] = []string{"name", "issuer", "audiences"}
	place(root, "openshell.gateway.oidc.issuers", object{"type": "array", "maxItems": maxIssuers, "items": issuer, "description": "several identity providers at once"})
	out, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic(err) // Only maps, strings and numbers are in it.
	}
	return append(out, '\n')
}

func closed(description string) object {
	return object{"type": "object", "additionalProperties": false, "properties": object{}, "description": description}
}

// place puts a schema at a dotted key, with the tables around it.
func place(root object, key string, schema object) {
	for {
		properties, ok := root["properties"].(object)
		if !ok {
			properties = object{}
			root["properties"] = properties
		}
		first, rest, more := strings.Cut(key, ".")
		if !more {
			properties[first] = schema
			return
		}
		inner, ok := properties[first].(object)
		if !ok {
			inner = closed("table " + first)
			properties[first] = inner
		}
		root, key = inner, rest
	}
}

func (s setting) schema() object {
	out := object{"description": strings.TrimSpace(s.usage + ". " + s.more)}
	if s.unused {
		out["description"] = "accepted, no effect: " + s.usage
	}
	switch s.kind {
	case number:
		least, most := s.bounds()
		out["type"], out["minimum"], out["maximum"] = "integer", least, most
		if n, err := strconv.ParseInt(s.preset, 10, 64); err == nil {
			out["default"] = n
		}
	case boolean:
		out["type"] = "boolean"
		if s.preset != "" {
			out["default"] = s.preset == "true"
		}
	case list:
		words := object{"type": "string", "minLength": 1}
		if len(s.choices) > 0 {
			words["enum"] = s.choices
		}
		out["type"], out["items"], out["maxItems"] = []string{"array", "string"}, words, maxList
	case choice:
		out["type"], out["enum"] = "string", s.choices
		if s.preset != "" {
			out["default"] = s.preset
		}
	default:
		out["type"] = "string"
		if s.preset != "" && s.file != "gateway.bind_address" {
			out["default"] = s.preset
		}
	}
	return out
}

func (f issuerField) schema() object {
	if f.like != "" {
		out := byName(f.like).schema()
		out["description"] = f.usage
		return out
	}
	words := object{"type": "array", "maxItems": maxList, "items": object{"type": "string", "minLength": 1}}
	out := object{}
	switch f.kind {
	case fieldText:
		out["type"], out["minLength"] = "string", 1
	case fieldNumber:
		out["type"] = "integer"
	case fieldFlag:
		out["type"], out["default"] = "boolean", false
	case fieldList:
		out = words
	case fieldClaims:
		claim := closed("the claim must be one of the values, or a list that has one of them")
		claim["properties"] = object{"claim": object{"type": "string", "minLength": 1}, "values": words}
		claim["required"] = []string{"claim", "values"}
		out["type"], out["maxItems"], out["items"] = "array", maxList, claim
	case fieldMap:
		out["type"], out["maxProperties"], out["additionalProperties"] = "object", maxList, words
	}
	out["description"] = f.usage
	return out
}
