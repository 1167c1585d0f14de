"""Hot loops of policies, compiled. Imported when a policy decides, never to list policies."""
