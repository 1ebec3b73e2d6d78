-- Sends each chest X-ray to the inference service as soon as Orthanc has it (STOW-RS). The service
-- stores its results back by itself; docs/pacs.md tells how both are set up.

local SERVER = "covid-xray"  -- its name under DicomWeb.Servers
local MODALITIES = { CR = true, DX = true, DR = true, RG = true }
local CHEST = { "CHEST", "THORA", "TORAX", "LUNG" }  -- somewhere in the body part
local SIDE_VIEWS = {  -- as words of the view: lateral, decubitus and oblique ones
  LL = true, RL = true, LLD = true, RLD = true, LLO = true, RLO = true,
  LAO = true, RAO = true, LPO = true, RPO = true, LAT = true, LATERAL = true,
}
local RESULTS = "covid-xray project (research software)"  -- Manufacturer of what it stores
local MOST_TRIES = 5

local instances = {}  -- by the job that sends them
local failures = {}  -- of an instance so far, as far as they count
local successes = 0  -- of all orders
local seen = {}  -- successes when an instance failed last
local waiting = {}  -- instances to send again

local function isChest(part)
  for _, name in ipairs(CHEST) do
    if part:find(name, 1, true) then
      return true
    end
  end
  return part == ""
end

local function isSideView(view)
  for word in view:gmatch("%a+") do
    if SIDE_VIEWS[word] then
      return true
    end
  end
  return false
end

-- What the service would refuse by these attributes is not sent; what is in doubt is for the service
-- to decide. Its results have other modalities; their manufacturer keeps them out too where somebody
-- adds OT or SC above.
local function isChestXray(tags)
  return MODALITIES[string.upper(tags["Modality"] or "")]
    and tags["Manufacturer"] ~= RESULTS
    and tags["PresentationIntentType"] ~= "FOR PROCESSING"
    and isChest(string.upper(tags["BodyPartExamined"] or ""))
    and not isSideView(string.upper(tags["ViewPosition"] or ""))
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
