package store

import (
	"encoding/json"
	"fmt"
)

// EncodeLabels returns labels as databases keep them: a JSON object, "{}" for none.
func EncodeLabels(labels map[string]string) (string, error) {
	if len(labels) == 0 {
		return "{}", nil
	}
	b, err := json.Marshal(labels)
	if err != nil {
		return "", fmt.Errorf("encode labels: %w", err)
	}
	return string(b), nil
}
