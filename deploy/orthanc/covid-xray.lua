-- Sends each chest X-ray to the inference service as soon as Orthanc has it (STOW-RS). The service
-- stores its results back by itself; docs/pacs.md tells how both are set up.

local SERVER = "covid-xray"  -- its name under DicomWeb.Servers
local MODALITIES = { CR = true, DX = true, DR = true, RG = true }
local RESULTS = "covid-xray project (research software)"  -- Manufacturer of what it stores
local MOST_TRIES = 5

local instances = {}  -- by the job that sends them
local failures = {}  -- of an instance so far, as far as they count
local successes = 0  -- of all orders
local seen = {}  -- successes when an instance failed last
local waiting = {}  -- instances to send again

-- What the service would refuse by these attributes is not sent. Its results have other modalities;
-- their manufacturer keeps them out too where somebody adds OT or SC above.
local function isChestXray(tags)
  local part = string.upper(tags["BodyPartExamined"] or "")
  local view = string.upper(tags["ViewPosition"] or "")
  return MODALITIES[tags["Modality"]]
    and tags["Manufacturer"] ~= RESULTS
    and tags["PresentationIntentType"] ~= "FOR PROCESSING"
    and (part == "" or part:find("CHEST") or part:find("THORA") or part:find("LUNG"))
    and not view:find("^[LR]")  -- lateral, decubitus and oblique views
end

local function send(instance)
  local order = DumpJson({ Resources = { instance }, Synchronous = false }, true)
  local answer = RestApiPost("/dicom-web/servers/" .. SERVER .. "/stow", order)
  if answer then  -- none where the instance was deleted meanwhile
    instances[ParseJson(answer)["ID"]] = instance
  end
end

function OnStoredInstance(instance, tags, metadata, origin)
  if isChestXray(tags) then
    send(instance)
  end
end

function OnJobSuccess(job)
  local instance = instances[job]
  if instance then
    successes = successes + 1
    instances[job], failures[instance], seen[instance] = nil, nil, nil
  end
end

-- The service was away, had no room or refused the X-ray: Orthanc does not tell which. While nothing
-- else can be sent either it is away, and a failure does not count.
function OnJobFailure(job)
  local instance = instances[job]
  if not instance then
    return
  end
  instances[job] = nil
  table.insert(waiting, instance)
  if seen[instance] == successes then
    return
  end
  seen[instance] = successes
  failures[instance] = (failures[instance] or 0) + 1
  if failures[instance] < MOST_TRIES then
    print("covid-xray: not sent yet, and sent again later: instance " .. instance)
  else
    table.remove(waiting)
    failures[instance], seen[instance] = nil, nil
    print("covid-xray: NOT SENT after " .. MOST_TRIES .. " tries: instance " .. instance)
  end
end

-- Some study is always about to be stable, StableAge seconds after its last instance.
function OnStableStudy(study, tags, metadata)
  local again = waiting
  waiting = {}
  for _, instance in ipairs(again) do
    send(instance)
  end
end
