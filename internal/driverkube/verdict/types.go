package verdict

import "time"

// The types hold as much of Kubernetes' objects as a verdict takes; the rest is skipped while reading.

// Meta is an object's metadata.
type Meta struct {
	Name              string      `json:"name"`
	Namespace         string      `json:"namespace"`
	UID               string      `json:"uid"`
	ResourceVersion   string      `json:"resourceVersion"`
	Generation        int64       `json:"generation"`
	CreationTimestamp time.Time   `json:"creationTimestamp"`
	DeletionTimestamp *time.Time  `json:"deletionTimestamp"`
	Labels            Labels      `json:"labels"`
	Annotations       Annotations `json:"annotations"`
	Owners            []Owner     `json:"ownerReferences"`
}

// Labels are those that the driver wrote.
type Labels struct {
	ManagedBy string `json:"openshell.ai/managed-by"`
	ID        string `json:"openshell.ai/sandbox-id"`
	GatewayID string `json:"openshell.ai/gateway-id"`
}

// Annotations are those that the driver wrote.
type Annotations struct {
	Name      string `json:"openshell.ai/sandbox-name"`
	Workspace string `json:"openshell.ai/sandbox-workspace"`
	Isolation string `json:"openshell.ai/isolation"`
}

// Owner is an owner reference.
type Owner struct {
	UID        string `json:"uid"`
	Controller bool   `json:"controller"`
}

// Condition is a condition of any object.
type Condition struct {
	Type               string    `json:"type"`
	Status             string    `json:"status"`
	Reason             string    `json:"reason"`
	Message            string    `json:"message"`
	ObservedGeneration int64     `json:"observedGeneration"`
	LastTransitionTime time.Time `json:"lastTransitionTime"`
}

// Sandbox is a Sandbox object of either version.
type Sandbox struct {
	Metadata Meta `json:"metadata"`
	Spec     struct {
		// OperatingMode is v1beta1's, Replicas v1alpha1's.
		OperatingMode string `json:"operatingMode"`
		Replicas      *int32 `json:"replicas"`
		Claims        []struct {
			Metadata struct {
				Name string `json:"name"`
			} `json:"metadata"`
		} `json:"volumeClaimTemplates"`
	} `json:"spec"`
	Status struct {
		Conditions []Condition `json:"conditions"`
		Replicas   *int32      `json:"replicas"`
	} `json:"status"`
}

// Version implements kubeapi.Object.
func (s *Sandbox) Version() string { return s.Metadata.ResourceVersion }

// Pod is a pod.
type Pod struct {
	Metadata Meta `json:"metadata"`
	Spec     struct {
		NodeName string `json:"nodeName"`
	} `json:"spec"`
	Status struct {
		Phase      string      `json:"phase"`
		Reason     string      `json:"reason"`
		Message    string      `json:"message"`
		Conditions []Condition `json:"conditions"`
		Init       []Container `json:"initContainerStatuses"`
		Containers []Container `json:"containerStatuses"`
	} `json:"status"`
}

// Version implements kubeapi.Object.
func (p *Pod) Version() string { return p.Metadata.ResourceVersion }

// Container is the status of a container.
type Container struct {
	Name         string `json:"name"`
	Ready        bool   `json:"ready"`
	RestartCount int32  `json:"restartCount"`
	State        State  `json:"state"`
	Last         State  `json:"lastState"`
}

// State is one state of a container.
type State struct {
	Waiting *struct {
		Reason  string `json:"reason"`
		Message string `json:"message"`
	} `json:"waiting"`
	Terminated *Terminated `json:"terminated"`
}

// Terminated is how a container ended.
type Terminated struct {
	ExitCode   int32     `json:"exitCode"`
	Signal     int32     `json:"signal"`
	Reason     string    `json:"reason"`
	Message    string    `json:"message"`
	FinishedAt time.Time `json:"finishedAt"`
}

// Event is a core event.
type Event struct {
	Metadata Meta `json:"metadata"`
	Involved struct {
		Kind      string `json:"kind"`
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
		UID       string `json:"uid"`
		FieldPath string `json:"fieldPath"`
	} `json:"involvedObject"`
	Type    string `json:"type"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
	Count   int32  `json:"count"`
	Source  struct {
		Component string `json:"component"`
	} `json:"source"`
	Reporter      string    `json:"reportingComponent"`
	LastTimestamp time.Time `json:"lastTimestamp"`
	EventTime     time.Time `json:"eventTime"`
	Series        *struct {
		Count            int32     `json:"count"`
		LastObservedTime time.Time `json:"lastObservedTime"`
	} `json:"series"`
}

// Version implements kubeapi.Object.
func (e *Event) Version() string { return e.Metadata.ResourceVersion }

// Time is when it last happened.
func (e *Event) Time() time.Time {
	switch {
	case e.Series != nil && !e.Series.LastObservedTime.IsZero():
		return e.Series.LastObservedTime
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp
	case !e.EventTime.IsZero():
		return e.EventTime
	}
	return e.Metadata.CreationTimestamp
}
