package sandbox_test

import (
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/store"
)

func TestCensus(t *testing.T) {
	t.Parallel()
	h := open(t)
	at := time.Now().Add(-time.Hour).UTC()
	for id, payload := range map[string]string{
		"new":      `{}`,
		"accepted": `{"accepted":true}`,
		"failed":   `{"accepted":true,"driverPhase":3}`,
		"broken":   `{`,
		"stopping": `{"accepted":true,"driverPhase":2,"course":"` + string(sandbox.CourseStopping) + `","courseSince":"` + at.Format(time.RFC3339) + `"}`,
		"going":    `{"accepted":true,"deletionTimestamp":"` + at.Format(time.RFC3339) + `"}`,
	} {
		if _, err := h.store.Write(t.Context(), store.Create(&store.Object{Kind: sandbox.Kind, ID: id, Name: id, Workspace: "default", Payload: []byte(payload)})); err != nil {
			t.Fatal(err)
		}
	}
	c := h.Census()
	if c.Phases[sandbox.PhaseProvisioning] != 2 || c.Phases[sandbox.PhaseError] != 1 || c.Phases[sandbox.PhaseDeleting] != 1 ||
		c.Phases[sandbox.PhaseUnknown] != 1 || c.Creating != 1 || c.Deleting != 1 || c.Stopping != 1 || c.Starting != 0 || c.Phases[sandbox.PhaseStopping] != 1 || c.Oldest < time.Hour-time.Minute {
		t.Errorf("%+v", c)
	}
}
